// A parallel loop on threads that belong to somebody else, and memory that each thread keeps.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace grouped_conv {

// A pool of threads.
class Threads {
 public:
  virtual ~Threads() = default;
  virtual int64_t count() const = 0;
  virtual void schedule(std::function<void()> work) = 0;
};

// The calling thread alone.
class Alone : public Threads {
 public:
  int64_t count() const override { return 1; }
  void schedule(std::function<void()> work) override { work(); }
};

// Calls task(i) for every i < count. Each thread has a run of neighbouring tasks and then takes
// what is left of the others' runs: threads that work on neighbouring rows at once share cache
// lines. The calling thread works too, and waits only for tasks that have been started: it cannot
// wait for a thread that is busy elsewhere.
void parallel_for(Threads& threads, int64_t count, const std::function<void(int64_t)>& task);

// Memory of the calling thread, aligned to 64 bytes, kept until the thread ends or more is asked
// for; never null. Each purpose has its own.
enum class Purpose : int { kTask, kFilters, kSums };
void* scratch(Purpose purpose, int64_t bytes);  // throws std::bad_alloc

// What all threads hold.
int64_t scratch_bytes();

}  // namespace grouped_conv
