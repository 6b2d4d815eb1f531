// Runs our CUDA C on the processor: one fiber per thread of a block, so that barriers and shuffles
// keep their meaning. It shows wrong bytes; barriers that a part of a block never reaches (nobody
// can go on: an error); shared memory read before it was written (it is filled with 0xa5); and, by
// running the threads in a random order, barriers that are missing. It does not show misaligned
// vector loads, races between blocks, or speed.
#pragma once
#define CUDA_HOST_SHIM 1
#include <ucontext.h>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <utility>
#include <vector>

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
struct Index { u32 x = 1; };
struct alignas(16) uint4 { u32 x, y, z, w; };
inline Index threadIdx, blockIdx, blockDim;

namespace shim {

enum State { READY, AT_BARRIER, IN_SHUFFLE, ENDED };
struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    State state;
};

inline std::vector<Fiber> fibers;
inline std::vector<u32> exchanged;         // what each thread gives to a shuffle
inline std::vector<uint4> shared;          // after a launch: what its last block left behind
inline ucontext_t scheduler;
inline u32 current;
inline u64 random_state;
inline std::function<void()> kernel;

inline u32 random_number() {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (u32)(random_state >> 33);
}

inline void run_thread() {
    kernel();
    fibers[current].state = ENDED;
    swapcontext(&fibers[current].context, &scheduler);
}

inline void wait(State reason) {
    u32 me = current;
    fibers[me].state = reason;
    swapcontext(&fibers[me].context, &scheduler);
}

// Let the threads from `first` to `end` go on, if each that has not ended waits for `reason`.
inline bool release(State reason, u32 first, u32 end) {
    bool any = false;
    for (u32 i = first; i < end; i++) {
        if (fibers[i].state == ENDED) continue;
        if (fibers[i].state != reason) return false;
        any = true;
    }
    for (u32 i = first; any && i < end; i++)
        if (fibers[i].state == reason) fibers[i].state = READY;
    return any;
}

inline void start_threads(u32 threads) {
    if (fibers.size() < threads) fibers.resize(threads);
    for (u32 i = 0; i < threads; i++) {
        Fiber &f = fibers[i];
        if (f.stack.empty()) f.stack.resize(128 << 10);
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.data();
        f.context.uc_stack.ss_size = f.stack.size();
        f.context.uc_link = &scheduler;
        makecontext(&f.context, run_thread, 0);
        f.state = READY;
    }
}

// Run one block to its end; false if its threads wait for each other for ever.
inline bool run_block(std::vector<u32> &order) {
    const u32 threads = (u32)order.size();
    for (;;) {
        for (u32 i = threads - 1; random_state && i > 0; i--)
            std::swap(order[i], order[random_number() % (i + 1)]);
        bool ran = false, alive = false;
        for (u32 i : order) {
            if (fibers[i].state != READY) {
                alive |= fibers[i].state != ENDED;
                continue;
            }
            current = threadIdx.x = i;
            ran = alive = true;
            swapcontext(&scheduler, &fibers[i].context);
        }
        if (!alive) return true;
        bool released = false;
        for (u32 warp = 0; warp < threads; warp += 32)
            released |= release(IN_SHUFFLE, warp, warp + 32 < threads ? warp + 32 : threads);
        if (!released) released = release(AT_BARRIER, 0, threads);
        if (!ran && !released) return false;
    }
}

// Return 0, or 1 for a barrier that is never complete. A `seed` of 0 keeps the threads in order.
inline int launch(u32 blocks, u32 threads, u64 shared_bytes, u64 seed, std::function<void()> body) {
    kernel = std::move(body);
    random_state = seed;
    blockDim.x = threads;
    exchanged.assign(threads, 0xdeadbeefu);
    std::vector<u32> order(threads);
    for (u32 i = 0; i < threads; i++) order[i] = i;
    const u32 poison = 0xa5a5a5a5u;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
        shared.assign(shared_bytes / 16 + 1, uint4{poison, poison, poison, poison});
        start_threads(threads);
        if (!run_block(order)) {
            fprintf(stderr, "a barrier in block %u is never complete\n", blockIdx.x);
            return 1;
        }
    }
    return 0;
}

inline u32 shuffle(u32 v, u32 from) {
    exchanged[current] = v;
    wait(IN_SHUFFLE);
    u32 got = exchanged[from];
    wait(IN_SHUFFLE);
    return got;
}

}  // namespace shim

#define KERNEL extern "C"
#define DEVICE static inline
#define DEVICE_CALL static
#define BOUNDS(threads, blocks)
#define SHARED(name) u32 *name = (u32 *)shim::shared.data()
#define SYNC() shim::wait(shim::AT_BARRIER)
#define SHUFFLE_XOR(v, mask) shim::shuffle((v), shim::current ^ (u32)(mask))
#define UNROLL
#define NOT_UNROLLED
inline u32 PERMUTE(u32 a, u32 b, u32 selector) {
    u64 bytes = ((u64)b << 32) | a;
    u32 r = 0;
    for (int i = 0; i < 4; i++)
        r |= (u32)((bytes >> (8 * ((selector >> (4 * i)) & 7))) & 255u) << (8 * i);
    return r;
}
inline u32 ROTATE(u32 x, u32 n) { return (x << (n & 31)) | (x >> ((32 - n) & 31)); }
