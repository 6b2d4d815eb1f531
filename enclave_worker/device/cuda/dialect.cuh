// The part of CUDA C in which our kernels are written.
//
// One source is compiled for GPUs (NVRTC, nvcc) and, through tests/gpu_aead/host/cuda_shim.h, for
// the processor (g++), so that a machine without a GPU proves which bytes the kernels compute.
// Hence: no #include, no templates, one block of dynamic shared memory, no intrinsics but these,
// and kernels with plain arguments.
#if !defined(CUDA_HOST_SHIM)
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
#define KERNEL extern "C" __global__
#define DEVICE static __device__ __forceinline__
#define DEVICE_CALL static __device__ __noinline__
#define BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define SHARED(name)                     \
    extern __shared__ uint4 name##_raw[]; \
    u32 *name = (u32 *)name##_raw
#define SYNC() __syncthreads()
#define SHUFFLE_XOR(v, mask) __shfl_xor_sync(0xffffffffu, (v), (mask))
#define PERMUTE(a, b, selector) __byte_perm((a), (b), (selector))
#define ROTATE(x, n) __funnelshift_l((x), (x), (n))
#define UNROLL _Pragma("unroll")
#define NOT_UNROLLED _Pragma("unroll 1")
#endif

DEVICE u32 swap_bytes(u32 x) { return PERMUTE(x, 0u, 0x0123u); }
