// Entry points for ctypes, one per kernel, and what Python has to agree with. KERNELS is the
// concatenated source as enclave_worker/device/cubins.py gives it to the compiler.
#include <cstring>
#include "cuda_shim.h"
#include KERNELS

extern "C" {

u32 constant(int which) {
    const u32 values[] = {THREADS, CONTEXT_WORDS, BODY_WORDS * 4, (u32)sizeof(Segment),
                          SETUP_THREADS, SETUP_WORDS * 4, FINISH_THREADS};
    return values[which];
}

// The words of shared memory that the last block left, other than what it was filled with and the
// table that every key has: what the next block on that multiprocessor could read.
u32 secrets_left(u32 skip_words) {
    const u32 *words = (const u32 *)shim::shared.data();
    u32 left = 0;
    for (u64 i = skip_words; i < shim::shared.size() * 4; i++)
        left += words[i] != 0 && words[i] != 0xa5a5a5a5u;
    return left;
}

// Threads' stacks stand for a GPU's registers, which end with their block; here they would stay.
void forget() {
    for (shim::Fiber &f : shim::fibers) memset(f.stack.data(), 0, f.stack.size());
}

int run_gcm_setup(u64 seed, u32 blocks, u32 threads, u64 shared, u32 *keys, u32 *contexts,
                  u32 log_rows) {
    return shim::launch(blocks, threads, shared, seed, [=] { gcm_setup(keys, contexts, log_rows); });
}

int run_gcm_body(u64 seed, u32 blocks, u32 threads, u64 shared, u32 *contexts, Segment *segments,
                 u8 *sealed, u8 *plain, u32 *parts, u32 pieces, u32 log_rows, u32 mode) {
    return shim::launch(blocks, threads, shared, seed, [=] {
        gcm_body(contexts, segments, sealed, plain, parts, pieces, log_rows, mode);
    });
}

int run_gcm_finish(u64 seed, u32 blocks, u32 threads, u64 shared, u32 *contexts, Segment *segments,
                   u8 *sealed, u8 *plain, u32 *parts, u32 *statuses, u32 count, u32 pieces,
                   u32 log_rows, u32 mode) {
    return shim::launch(blocks, threads, shared, seed, [=] {
        gcm_finish(contexts, segments, sealed, plain, parts, statuses, count, pieces, log_rows, mode);
    });
}

// A kernel in which half a block waits for the other half in vain.
int run_divergent(u64 seed) {
    return shim::launch(1, 64, 64, seed, [] {
        if (threadIdx.x < 16) SYNC();
        else SHUFFLE_XOR(1, 1);
    });
}

}  // extern "C"
