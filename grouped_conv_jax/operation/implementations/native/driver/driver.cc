// Runs the kernels without Python: random shapes against a plain loop in float64, or timings.
//   driver check COUNT SEED
//   driver time B H W GROUPS CHANNELS FILTERS SIZE STRIDE THREADS

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <mutex>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "convolution.h"
#include "numbers.h"

namespace grouped_conv {
namespace {

class Pool : public Threads {
 public:
  explicit Pool(int64_t count) : count_(count) {
    for (int64_t i = 1; i < count; ++i) workers_.emplace_back([this] { work(); });
  }
  ~Pool() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  int64_t count() const override { return count_; }
  void schedule(std::function<void()> work) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      queue_.push_back(std::move(work));
    }
    wake_.notify_one();
  }

 private:
  void work() {
    for (;;) {
      std::function<void()> next;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
        if (queue_.empty()) return;
        next = std::move(queue_.front());
        queue_.pop_front();
      }
      next();
    }
  }
  int64_t count_;
  bool stop_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  std::vector<std::thread> workers_;
};

int64_t volume(const int64_t (&size)[3]) { return size[0] * size[1] * size[2]; }

// Allocates whole cache lines, as XLA does.
template <class T>
struct CacheLines {
  using value_type = T;
  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64)));
  }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t(64)); }
  bool operator==(const CacheLines&) const = default;
};

// Numbers of one type, in memory that ends where they end.
struct Numbers {
  Numbers(Number number, int64_t count) : number(number), count(count) {
    bytes = number == Number::kFloat64 ? 8 : number == Number::kFloat32 ? 4 : 2;
    data.resize(size_t(count * bytes));
  }
  void set(int64_t i, double value) {
    char* to = data.data() + i * bytes;
    if (number == Number::kFloat64) std::memcpy(to, &value, 8);
    const float single = float(value);
    if (number == Number::kFloat32) std::memcpy(to, &single, 4);
    if (number == Number::kBfloat16) {
      const Bfloat16 half = from_float<Bfloat16>(single);
      std::memcpy(to, &half, 2);
    }
    if (number == Number::kFloat16) {
      const _Float16 half = _Float16(single);
      std::memcpy(to, &half, 2);
    }
  }
  double get(int64_t i) const {
    const char* from = data.data() + i * bytes;
    if (number == Number::kFloat64) return *reinterpret_cast<const double*>(from);
    if (number == Number::kFloat32) return *reinterpret_cast<const float*>(from);
    if (number == Number::kBfloat16) return to_float(*reinterpret_cast<const Bfloat16*>(from));
    return to_float(*reinterpret_cast<const _Float16*>(from));
  }
  Number number;
  int64_t count, bytes;
  std::vector<char, CacheLines<char>> data;
};

// Calls f(x, filters, y) with the flat index of each for every product of the convolution.
template <class F>
void for_products(const Convolution& n, const F& f) {
  const int64_t xs = n.groups * n.channels, ys = n.groups * n.filters;
  for (int64_t b = 0; b < n.batch; ++b)
    for (int64_t o = 0; o < volume(n.outputs); ++o)
      for (int64_t t = 0; t < volume(n.size); ++t) {
        int64_t pixel = b, rest_o = o, rest_t = t, place[3];
        bool inside = true;
        for (int i = 2; i >= 0; --i) {
          place[i] = rest_o % n.outputs[i] * n.stride[i] + rest_t % n.size[i] * n.dilation[i] -
                     n.before[i];
          rest_o /= n.outputs[i], rest_t /= n.size[i];
          inside &= place[i] >= 0 && place[i] < n.image[i];
        }
        if (!inside) continue;
        for (int i = 0; i < 3; ++i) pixel = pixel * n.image[i] + place[i];
        const int64_t output = b * volume(n.outputs) + o;
        for (int64_t g = 0; g < n.groups; ++g)
          for (int64_t c = 0; c < n.channels; ++c)
            for (int64_t k = 0; k < n.filters; ++k)
              f(pixel * xs + g * n.channels + c, (t * n.channels + c) * ys + g * n.filters + k,
                output * ys + g * n.filters + k);
      }
}

struct Operands {
  Operands(const Convolution& n)
      : all{Numbers(n.number, n.batch * volume(n.image) * n.groups * n.channels),
            Numbers(n.number, volume(n.size) * n.channels * n.groups * n.filters),
            Numbers(n.number, n.batch * volume(n.outputs) * n.groups * n.filters)} {}
  Numbers all[3];
};

const char* const kRoles[] = {"forward", "input gradient", "filter gradient"};

struct Indices {
  int lhs, rhs, out;
};
constexpr Indices kIndices[] = {{0, 1, 2}, {1, 2, 0}, {0, 2, 1}};

std::string describe(const Convolution& n) {
  char text[400];
  std::snprintf(text, sizeof text,
                "batch %ld groups %ld channels %ld filters %ld image %ld %ld %ld size %ld %ld %ld "
                "stride %ld %ld %ld "
                "dilation %ld %ld %ld before %ld %ld %ld outputs %ld %ld %ld number %d %d",
                long(n.batch), long(n.groups), long(n.channels), long(n.filters), long(n.image[0]),
                long(n.image[1]), long(n.image[2]), long(n.size[0]), long(n.size[1]),
                long(n.size[2]), long(n.stride[0]), long(n.stride[1]), long(n.stride[2]),
                long(n.dilation[0]), long(n.dilation[1]), long(n.dilation[2]), long(n.before[0]),
                long(n.before[1]), long(n.before[2]), long(n.outputs[0]), long(n.outputs[1]),
                long(n.outputs[2]), int(n.number), int(n.result));
  return text;
}

bool check(Threads& threads, const Kernels& kernels, const Convolution& n, std::mt19937& random) {
  Operands operands(n);
  std::normal_distribution<double> normal;
  const bool special = random() % 8 == 0;
  for (Numbers& numbers : operands.all)
    for (int64_t i = 0; i < numbers.count; ++i) numbers.set(i, normal(random));
  if (special)
    for (Numbers& numbers : operands.all)
      if (numbers.count)
        numbers.set(int64_t(random() % numbers.count),
                    random() % 2 ? std::numeric_limits<double>::infinity() : std::nan(""));
  bool right = true;
  for (int role = 0; role < 3; ++role) {
    const auto [lhs, rhs, out] = kIndices[role];
    std::vector<double> expected(operands.all[out].count), magnitude(operands.all[out].count);
    for_products(n, [&](int64_t x, int64_t w, int64_t y) {
      const int64_t at[] = {x, w, y};
      const double product = operands.all[lhs].get(at[lhs]) * operands.all[rhs].get(at[rhs]);
      expected[at[out]] += product, magnitude[at[out]] += std::fabs(product);
    });
    Numbers result(n.result, operands.all[out].count);
    std::memset(result.data.data(), 0xff, result.data.size());
    compute(threads, kernels, Role(role), n, operands.all[lhs].data.data(),
            operands.all[rhs].data.data(), result.data.data());
    const double tolerance = n.result == Number::kFloat64   ? 1e-13
                             : n.result == Number::kFloat32 ? 1e-5
                                                            : 1e-2;
    for (int64_t i = 0; i < result.count; ++i) {
      const double got = result.get(i), want = expected[i];
      const bool same = std::isfinite(want)
                            ? std::fabs(got - want) <= tolerance * (magnitude[i] + 1e-3)
                        : std::isnan(want) ? std::isnan(got)
                                           : got == want;
      if (!same) {
        std::printf("%s %s: %s, number %ld of %ld is %g, not %g\n", kernels.name, kRoles[role],
                    describe(n).c_str(), long(i), long(result.count), got, want);
        right = false;
        break;
      }
    }
  }
  return right;
}

Convolution random_convolution(std::mt19937& random) {
  auto up_to = [&](int64_t most) { return 1 + int64_t(random() % most); };
  Convolution n{};
  n.batch = up_to(3);
  // Depthwise; few channels, of any number and of those that fill vectors; many channels.
  const int kind = int(random() % 5);
  n.groups = kind == 0 ? up_to(70) : up_to(6);
  n.channels = kind == 0 ? 1 : kind == 1 ? up_to(6) : kind == 2 ? 4 * up_to(4) : up_to(40);
  n.filters = kind == 0   ? (random() % 3 ? 1 : up_to(4))
              : kind == 1 ? (random() % 2   ? up_to(9)
                             : random() % 2 ? 24
                                            : 1)
              : kind == 2 ? 4 * up_to(6)
                          : up_to(80);
  const int rank = int(random() % 3) + 1;
  for (int i = 0; i < 3; ++i) {
    const bool trivial = i < 3 - rank;
    n.size[i] = trivial ? 1 : random() % 3 && kind ? up_to(4) : up_to(rank == 1 ? 20 : 8);
    n.stride[i] = trivial ? 1 : random() % 2 ? 1 : up_to(4);
    n.dilation[i] = trivial || random() % 2 ? 1 : up_to(3);
    n.image[i] = trivial ? 1 : random() % 5 == 0 ? 7 : up_to(rank == 1 ? 60 : rank == 2 ? 20 : 7);
    const int64_t extent = (n.size[i] - 1) * n.dilation[i] + 1;
    int64_t after = 0;
    if (!trivial && random() % 4) {
      n.before[i] = int64_t(random() % (extent + 1)) - (random() % 4 == 0 ? 2 : 0);
      after = int64_t(random() % (extent + 1)) - (random() % 4 == 0 ? 2 : 0);
    }
    const int64_t room = n.image[i] + n.before[i] + after - extent;
    n.outputs[i] = room < 0 ? 0 : room / n.stride[i] + 1;
    if (!n.outputs[i]) {
      n.before[i] = extent;
      n.outputs[i] = n.image[i] / n.stride[i] + 1;
    }
    // Cropped so far that no tap meets a pixel.
    if (!trivial && random() % 50 == 0) n.before[i] = -n.image[i];
  }
  n.number = Number(random() % 4);
  n.result = int(n.number) >= 2 && random() % 3 == 0 ? Number::kFloat32 : n.number;
  return n;
}

double milliseconds(const std::function<void()>& f) {
  for (int i = 0; i < 3; ++i) f();
  std::vector<double> times;
  double total = 0;
  while (times.size() < 15 || (total < 300 && times.size() < 3000)) {
    const auto start = std::chrono::steady_clock::now();
    f();
    times.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
            .count());
    total += times.back();
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 4];
}

int time(const Kernels& kernels, int64_t threads, Convolution n) {
  Pool pool(threads);
  Operands operands(n);
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  for (Numbers& numbers : operands.all)
    for (int64_t i = 0; i < numbers.count; ++i) numbers.set(i, normal(random));
  const double products =
      double(n.batch) * n.groups * n.channels * n.filters * volume(n.outputs) * volume(n.size);
  std::printf("%s %ldx%ldx%ld g%ld %ld->%ld k%ld s%ld:", kernels.name, long(n.batch),
              long(n.image[1]), long(n.image[2]), long(n.groups), long(n.channels), long(n.filters),
              long(n.size[1]), long(n.stride[1]));
  for (int role = 0; role < 3; ++role) {
    const auto [lhs, rhs, out] = kIndices[role];
    Numbers result(n.result, operands.all[out].count);
    const double ms = milliseconds([&] {
      compute(pool, kernels, Role(role), n, operands.all[lhs].data.data(),
              operands.all[rhs].data.data(), result.data.data());
    });
    std::printf("  %.3f ms %.0f GF", ms, 2 * products / ms / 1e6);
  }
  std::printf("\n");
  return 0;
}

const Kernels& kernels_named(const char* name) {
#if defined(__x86_64__)
  if (!name || !std::strcmp(name, "avx512")) return *kernels_avx512();
  if (!std::strcmp(name, "avx2")) return *kernels_avx2();
#endif
  return *kernels_baseline();
}

int run(int count, char** arguments) {
  const Kernels& kernels = kernels_named(std::getenv("GROUPED_CONV_INSTRUCTION_SET"));
  auto number = [&](int i) { return std::atoll(arguments[i]); };
  if (count >= 4 && !std::strcmp(arguments[1], "check")) {
    Pool pool(3);
    std::mt19937 random(static_cast<unsigned>(number(3)));
    int wrong = 0;
    for (int64_t i = 0; i < number(2) && wrong < 5; ++i)
      wrong += !check(pool, kernels, random_convolution(random), random);
    std::printf("%s: %s\n", kernels.name, wrong ? "wrong" : "right");
    return wrong != 0;
  }
  if (count >= 11 && !std::strcmp(arguments[1], "time")) {
    Convolution n{};
    n.batch = number(2), n.groups = number(5), n.channels = number(6), n.filters = number(7);
    for (int i = 0; i < 3; ++i)
      n.image[i] = n.size[i] = n.stride[i] = n.dilation[i] = n.outputs[i] = 1;
    for (int i = 1; i < 3; ++i) {
      n.image[i] = number(2 + i), n.size[i] = number(8), n.stride[i] = number(9),
      n.before[i] = n.size[i] / 2;
      n.outputs[i] = (n.image[i] + 2 * n.before[i] - n.size[i]) / n.stride[i] + 1;
    }
    return time(kernels, number(10), n);
  }
  std::fprintf(stderr,
               "usage: driver check COUNT SEED | driver time B H W GROUPS CHANNELS FILTERS SIZE "
               "STRIDE THREADS\n");
  return 2;
}

}  // namespace
}  // namespace grouped_conv

int main(int count, char** arguments) { return grouped_conv::run(count, arguments); }
