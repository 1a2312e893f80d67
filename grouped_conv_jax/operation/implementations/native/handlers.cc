// The doors through which XLA calls: they check what they are given, and pass it on.

#include <algorithm>
#include <new>
#include <string>

#include "convolution.h"
#include "exports.h"
#include "parallel.h"
#include "processor.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace grouped_conv {
namespace {

using Sizes = ffi::Span<const int64_t>;

// XLA's own threads.
class XlaThreads : public Threads {
 public:
  explicit XlaThreads(ffi::ThreadPool& pool) : pool_(pool) {}
  int64_t count() const override { return std::max<int64_t>(1, pool_.num_threads()); }
  void schedule(std::function<void()> work) override { pool_.Schedule(std::move(work)); }

 private:
  ffi::ThreadPool& pool_;
};

struct Failure {
  std::string message;
};

void require(bool holds, const char* rule) {
  if (!holds) throw Failure{std::string("grouped_conv: ") + rule};
}

Number number_of(ffi::DataType type) {
  switch (type) {
    case ffi::F32: return Number::kFloat32;
    case ffi::F64: return Number::kFloat64;
    case ffi::BF16: return Number::kBfloat16;
    case ffi::F16: return Number::kFloat16;
    default: throw Failure{"grouped_conv: numbers must be float32, float64, bfloat16 or float16"};
  }
}

// No size, stride or padding is so large that sums of their products overflow.
constexpr int64_t kMost = int64_t(1) << 31;

// The convolution whose x, filters and y have these sizes.
Convolution convolution_of(Sizes x, Sizes filters, Sizes y, int64_t groups, Sizes stride,
                           Sizes dilation, Sizes before) {
  const size_t rank = x.size();
  require(rank >= 3 && rank <= 5 && filters.size() == rank && y.size() == rank,
          "x, filters and y must have one to three spatial axes, as many as each other");
  require(stride.size() == rank - 2 && dilation.size() == rank - 2 && before.size() == rank - 2,
          "stride, dilation and padding must have one number for each spatial axis");
  require(groups >= 1 && groups < kMost, "groups must be positive");
  Convolution n{};
  n.batch = x[0], n.groups = groups;
  n.channels = filters[rank - 2], n.filters = filters[rank - 1] / groups;
  require(y[0] == n.batch, "x and y must have as many images");
  require(n.channels * groups == x[rank - 1], "x must have the channels of all groups");
  require(n.filters * groups == filters[rank - 1] && filters[rank - 1] == y[rank - 1],
          "filters and y must have the filters of all groups");
  for (size_t i = 0; i < 3; ++i) {
    const bool is_given = i + rank >= 5;
    const size_t axis = i + rank - 5;
    n.image[i] = is_given ? x[axis + 1] : 1;
    n.size[i] = is_given ? filters[axis] : 1;
    n.outputs[i] = is_given ? y[axis + 1] : 1;
    n.stride[i] = is_given ? stride[axis] : 1;
    n.dilation[i] = is_given ? dilation[axis] : 1;
    n.before[i] = is_given ? before[axis] : 0;
    require(n.stride[i] >= 1 && n.stride[i] < kMost && n.dilation[i] >= 1 && n.dilation[i] < kMost,
            "stride and dilation must be positive");
    require(n.before[i] > -kMost && n.before[i] < kMost && n.image[i] < kMost &&
                n.outputs[i] < kMost && n.size[i] * n.dilation[i] < kMost,
            "sizes and padding must be less than 2^31");
  }
  return n;
}

ffi::Error run(Role role, ffi::ThreadPool pool, ffi::AnyBuffer lhs, ffi::AnyBuffer rhs,
               ffi::Result<ffi::AnyBuffer> result, int64_t groups, Sizes stride, Sizes dilation,
               Sizes before) {
  try {
    const Sizes shapes[] = {lhs.dimensions(), rhs.dimensions(), result->dimensions()};
    // Which of them are x, filters and y.
    const int x = role == Role::kInputGradient ? 2 : 0;
    const int filters = role == Role::kForward ? 1 : role == Role::kInputGradient ? 0 : 2;
    Convolution n = convolution_of(shapes[x], shapes[filters], shapes[3 - x - filters], groups,
                                   stride, dilation, before);
    n.number = number_of(lhs.element_type());
    n.result = number_of(result->element_type());
    require(rhs.element_type() == lhs.element_type(), "both operands must have one dtype");
    const bool is_short = n.number == Number::kBfloat16 || n.number == Number::kFloat16;
    require(n.result == n.number || (is_short && n.result == Number::kFloat32),
            "the result must have the operands' dtype, or float32 if they have 16 bits");
    if (result->element_count() == 0) return ffi::Error::Success();
    if (lhs.element_count() == 0 || rhs.element_count() == 0) {
      std::fill_n(static_cast<char*>(result->untyped_data()), result->size_bytes(), 0);
      return ffi::Error::Success();
    }
    XlaThreads threads(pool);
    compute(threads, *kernels(), role, n, lhs.untyped_data(), rhs.untyped_data(),
            result->untyped_data());
    return ffi::Error::Success();
  } catch (const Failure& failure) {
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, failure.message);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "grouped_conv: no memory for scratch");
  }
}

template <Role role>
ffi::Error handle(ffi::ThreadPool pool, ffi::AnyBuffer lhs, ffi::AnyBuffer rhs,
                  ffi::Result<ffi::AnyBuffer> result, int64_t groups, Sizes stride, Sizes dilation,
                  Sizes before) {
  return run(role, pool, lhs, rhs, result, groups, stride, dilation, before);
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .Ret<ffi::AnyBuffer>()
      .Attr<int64_t>("groups")
      .Attr<Sizes>("stride")
      .Attr<Sizes>("dilation")
      .Attr<Sizes>("before");
}

}  // namespace
}  // namespace grouped_conv

using grouped_conv::binding;
using grouped_conv::handle;
using grouped_conv::Role;

XLA_FFI_DEFINE_HANDLER_SYMBOL(grouped_conv_forward, handle<Role::kForward>, binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(grouped_conv_input_gradient, handle<Role::kInputGradient>, binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(grouped_conv_filter_gradient, handle<Role::kFilterGradient>,
                              binding());

long grouped_conv_scratch_bytes() { return long(grouped_conv::scratch_bytes()); }
