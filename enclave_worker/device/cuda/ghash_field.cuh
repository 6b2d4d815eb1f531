// GF(2^128) as GHASH has it (SP 800-38D §6.3), without branches or tables: no part of a product's
// time depends on its factors.

// A block as four big-endian words: the coefficient of x^0 is the top bit of w[0].
struct Block { u32 w[4]; };

DEVICE Block zero_block() {
    Block z;
UNROLL
    for (int i = 0; i < 4; i++) z.w[i] = 0;
    return z;
}

DEVICE Block load_block(const u32 *p) {
    Block b;
UNROLL
    for (int i = 0; i < 4; i++) b.w[i] = p[i];
    return b;
}

DEVICE void store_block(u32 *p, const Block &b) {
UNROLL
    for (int i = 0; i < 4; i++) p[i] = b.w[i];
}

DEVICE Block add(Block a, Block b) {
UNROLL
    for (int i = 0; i < 4; i++) a.w[i] ^= b.w[i];
    return a;
}

// Carry-less 32 x 32 -> 64 by integer products of operands with three zero bits between any two
// that are used: eight products at most meet in one place, so a sum needs four bits and no carry
// reaches the next place that is read.
DEVICE u64 carryless_32(u32 a, u32 b) {
    u32 a0 = a & 0x11111111u, a1 = a & 0x22222222u, a2 = a & 0x44444444u, a3 = a & 0x88888888u;
    u32 b0 = b & 0x11111111u, b1 = b & 0x22222222u, b2 = b & 0x44444444u, b3 = b & 0x88888888u;
    u64 z0 = ((u64)a0 * b0) ^ ((u64)a1 * b3) ^ ((u64)a2 * b2) ^ ((u64)a3 * b1);
    u64 z1 = ((u64)a0 * b1) ^ ((u64)a1 * b0) ^ ((u64)a2 * b3) ^ ((u64)a3 * b2);
    u64 z2 = ((u64)a0 * b2) ^ ((u64)a1 * b1) ^ ((u64)a2 * b0) ^ ((u64)a3 * b3);
    u64 z3 = ((u64)a0 * b3) ^ ((u64)a1 * b2) ^ ((u64)a2 * b1) ^ ((u64)a3 * b0);
    return (z0 & 0x1111111111111111ull) | (z1 & 0x2222222222222222ull)
         | (z2 & 0x4444444444444444ull) | (z3 & 0x8888888888888888ull);
}

// 64 x 64 -> 128 with three products (Karatsuba); o[0] is the most significant word.
DEVICE void carryless_64(u32 ah, u32 al, u32 bh, u32 bl, u32 o[4]) {
    u64 high = carryless_32(ah, bh), low = carryless_32(al, bl);
    u64 middle = carryless_32(ah ^ al, bh ^ bl) ^ high ^ low;
    o[0] = (u32)(high >> 32);
    o[1] = (u32)high ^ (u32)(middle >> 32);
    o[2] = (u32)(low >> 32) ^ (u32)middle;
    o[3] = (u32)low;
}

// Called, not inlined: one copy of the code, and its registers are not added to the caller's.
DEVICE_CALL Block multiply(Block a, Block b) {
    u32 h[4], l[4], m[4], p[8];
    carryless_64(a.w[0], a.w[1], b.w[0], b.w[1], h);
    carryless_64(a.w[2], a.w[3], b.w[2], b.w[3], l);
    carryless_64(a.w[0] ^ a.w[2], a.w[1] ^ a.w[3], b.w[0] ^ b.w[2], b.w[1] ^ b.w[3], m);
UNROLL
    for (int i = 0; i < 4; i++) m[i] ^= h[i] ^ l[i];
    p[0] = h[0];
    p[1] = h[1];
    p[2] = h[2] ^ m[0];
    p[3] = h[3] ^ m[1];
    p[4] = l[0] ^ m[2];
    p[5] = l[1] ^ m[3];
    p[6] = l[2];
    p[7] = l[3];
    // The product of two reflected numbers lacks one bit: shift all 256 up by one.
UNROLL
    for (int i = 0; i < 7; i++) p[i] = (p[i] << 1) | (p[i + 1] >> 31);
    p[7] <<= 1;
    // Reduce by x^128 = x^7 + x^2 + x + 1. What the upper half pushes out at its own top first.
    p[4] ^= (p[7] << 31) ^ (p[7] << 30) ^ (p[7] << 25);
    Block o;
    u32 before = 0;
UNROLL
    for (int i = 0; i < 4; i++) {
        u32 e = p[4 + i];
        o.w[i] = p[i] ^ e ^ ((e >> 1) | (before << 31)) ^ ((e >> 2) | (before << 30))
               ^ ((e >> 7) | (before << 25));
        before = e;
    }
    return o;
}
