// The C interface of the shared library: everything that Python reads from it, and nothing else.
#pragma once

#include "xla/ffi/api/c_api.h"

#ifdef _WIN32
#define GROUPED_CONV_EXPORT extern "C" __declspec(dllexport)
#else
#define GROUPED_CONV_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// XLA FFI handlers.
GROUPED_CONV_EXPORT XLA_FFI_Error* grouped_conv_forward(XLA_FFI_CallFrame* frame);
GROUPED_CONV_EXPORT XLA_FFI_Error* grouped_conv_input_gradient(XLA_FFI_CallFrame* frame);
GROUPED_CONV_EXPORT XLA_FFI_Error* grouped_conv_filter_gradient(XLA_FFI_CallFrame* frame);

// The instruction sets that this processor can run, separated by spaces, the fastest last.
GROUPED_CONV_EXPORT const char* grouped_conv_instruction_sets();

// The instruction set in use.
GROUPED_CONV_EXPORT const char* grouped_conv_instruction_set();

// Uses the named instruction set from the next call on. Returns nonzero if this processor cannot
// run it, and then changes nothing.
GROUPED_CONV_EXPORT int grouped_conv_use(const char* name);

// 1000 * major + minor version of the FFI headers that the library was compiled with.
GROUPED_CONV_EXPORT int grouped_conv_ffi_version();

// A hash of the library's sources.
GROUPED_CONV_EXPORT const char* grouped_conv_sources();

// The bytes of scratch memory that all threads hold together.
GROUPED_CONV_EXPORT long grouped_conv_scratch_bytes();
