// The XLA FFI handlers. A stub.
#include "exports.h"
#include "processor.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

ffi::Error not_built(ffi::RemainingArgs, ffi::RemainingRets) {
  if (!grouped_conv::kernels()) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kUnimplemented, "not built yet");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(grouped_conv_forward, not_built,
                              ffi::Ffi::Bind().RemainingArgs().RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(grouped_conv_input_gradient, not_built,
                              ffi::Ffi::Bind().RemainingArgs().RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(grouped_conv_filter_gradient, not_built,
                              ffi::Ffi::Bind().RemainingArgs().RemainingRets());

long grouped_conv_scratch_bytes() { return 0; }
