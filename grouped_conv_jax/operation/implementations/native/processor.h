// Which instruction set the kernels use: the fastest that the processor has, unless one is forced.
#pragma once

#include "kernels.h"

namespace grouped_conv {

// The kernels compiled for the instruction set in use.
const Kernels* kernels();

}  // namespace grouped_conv
