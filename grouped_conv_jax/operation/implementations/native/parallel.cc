#include "parallel.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

namespace grouped_conv {

void parallel_for(Threads& threads, int64_t count, const std::function<void(int64_t)>& task) {
  struct alignas(64) Run {
    std::atomic<int64_t> next;
    int64_t end;
  };
  struct State {
    std::atomic<int64_t> done{0};
    std::unique_ptr<Run[]> runs;
  };
  const int64_t workers = std::max<int64_t>(1, std::min(threads.count(), count));
  if (workers == 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  auto state = std::make_shared<State>();
  state->runs.reset(new Run[workers]);
  for (int64_t t = 0; t < workers; ++t) {
    state->runs[t].next = count * t / workers;
    state->runs[t].end = count * (t + 1) / workers;
  }
  // A helper that comes late finds no task, and does not touch `task`, which is gone by then.
  auto work = [state, count, workers, &task](int64_t first) {
    for (int64_t t = 0; t < workers; ++t) {
      Run& run = state->runs[(first + t) % workers];
      for (int64_t i; (i = run.next.fetch_add(1)) < run.end;) {
        task(i);
        if (state->done.fetch_add(1) + 1 == count) state->done.notify_one();
      }
    }
  };
  for (int64_t t = 1; t < workers; ++t) threads.schedule([work, t] { work(t); });
  work(0);
  for (int64_t done; (done = state->done.load()) < count;) state->done.wait(done);
}

namespace {

std::atomic<int64_t> held{0};

class Scratch {
 public:
  ~Scratch() { release(); }
  void* get(int64_t bytes) {
    if (!data_ || bytes > size_) {
      release();
      data_ = ::operator new(bytes, std::align_val_t(64));
      size_ = bytes;
      held += bytes;
    }
    return data_;
  }

 private:
  void release() {
    ::operator delete(data_, std::align_val_t(64));
    held -= size_;
    data_ = nullptr, size_ = 0;
  }
  void* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace

void* scratch(Purpose purpose, int64_t bytes) {
  static thread_local Scratch all[3];
  return all[int(purpose)].get(bytes);
}

int64_t scratch_bytes() { return held; }

}  // namespace grouped_conv
