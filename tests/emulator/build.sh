#!/bin/sh
# build.sh OUT [FLAGS...]: makes the stand-in libcuda.so.1, libnvrtc.so.12 and libcublasLt.so.12 in OUT.
# FLAGS go to the C++ compiler, for example -DINVAD_EMULATOR_UCONTEXT. Sanitizers need no flags here: the
# libraries notice when a sanitizer's runtime is loaded before them.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$1
shift
mkdir -p "$out"
compile="${CXX:-c++} -std=c++17 -O3 -march=native -g1 -fPIC -shared -Wall -Wextra -pthread"

# Their sonames are the first that cudarc looks for, so that once loaded they are found before NVIDIA's.
library() {
    file=$1
    shift
    $compile "$@" -Wl,-soname,"${file%%.so*}.so" -o "$out/$file"
    ln -sf "$file" "$out/${file%%.so*}.so"
}
library libcuda.so.1 "$@" "$here/runtime.cpp" "$here/hopper.cpp" "$here/driver.cpp" -ldl
library libnvrtc.so.12 "$@" "-DINVAD_EMULATOR_DEVICE_HEADER=\"$here/device.hpp\"" "$here/nvrtc.cpp"
library libcublasLt.so.12 "$@" "$here/cublaslt.cpp" -L"$out" -lcuda -Wl,-rpath,"\$ORIGIN"
