// AES-256 without tables, for what is done once per key or segment: the key schedule, H, the last
// ragged block, the tag's mask. The bulk goes through tables in shared memory (aes256gcm.cu), whose
// bank layout makes them safe; tables in global memory would leave key-dependent traces in caches.
//
// A state is 8 planes: plane b holds bit b of every byte. Of the 32 bits of a plane, byte 3 - r
// holds row r, its low four bits the columns of the first block and its high four the second's.
struct Planes { u32 q[8]; };

// The S-box in 115 gates (Boyar and Peralta, "A depth-16 circuit for the AES S-box", 2011),
// on 32 bytes at once.
DEVICE void substitute(u32 q[8]) {
    u32 x0 = q[7], x1 = q[6], x2 = q[5], x3 = q[4], x4 = q[3], x5 = q[2], x6 = q[1], x7 = q[0];
    // Linear, to the tower field.
    u32 y14 = x3 ^ x5, y13 = x0 ^ x6, y9 = x0 ^ x3, y8 = x0 ^ x5, t0 = x1 ^ x2;
    u32 y1 = t0 ^ x7, y4 = y1 ^ x3, y12 = y13 ^ y14, y2 = y1 ^ x0, y5 = y1 ^ x6, y3 = y5 ^ y8;
    u32 t1 = x4 ^ y12, y15 = t1 ^ x5, y20 = t1 ^ x1, y6 = y15 ^ x7, y10 = y15 ^ t0;
    u32 y11 = y20 ^ y9, y7 = x7 ^ y11, y17 = y10 ^ y11, y19 = y10 ^ y8, y16 = t0 ^ y11;
    u32 y21 = y13 ^ y16, y18 = x0 ^ y16;
    // Inversion.
    u32 t2 = y12 & y15, t4 = (y3 & y6) ^ t2, t6 = (y4 & x7) ^ t2, t7 = y13 & y16;
    u32 t9 = (y5 & y1) ^ t7, t11 = (y2 & y7) ^ t7, t12 = y9 & y11, t14 = (y14 & y17) ^ t12;
    u32 t16 = (y8 & y10) ^ t12;
    u32 t21 = t4 ^ t14 ^ y20, t22 = t6 ^ t16 ^ y19, t23 = t9 ^ t14 ^ y21, t24 = t11 ^ t16 ^ y18;
    u32 t25 = t21 ^ t22, t26 = t21 & t23, t27 = t24 ^ t26, t29 = (t25 & t27) ^ t22;
    u32 t30 = t23 ^ t24, t31 = t22 ^ t26, t33 = (t31 & t30) ^ t24, t34 = t23 ^ t33;
    u32 t35 = t27 ^ t33, t36 = t24 & t35, t37 = t36 ^ t34, t38 = t27 ^ t36;
    u32 t40 = t25 ^ (t29 & t38), t41 = t40 ^ t37, t42 = t29 ^ t33, t43 = t29 ^ t40;
    u32 t44 = t33 ^ t37, t45 = t42 ^ t41;
    u32 z0 = t44 & y15, z1 = t37 & y6, z2 = t33 & x7, z3 = t43 & y16, z4 = t40 & y1;
    u32 z5 = t29 & y7, z6 = t42 & y11, z7 = t45 & y17, z8 = t41 & y10, z9 = t44 & y12;
    u32 z10 = t37 & y3, z11 = t33 & y4, z12 = t43 & y13, z13 = t40 & y5, z14 = t29 & y2;
    u32 z15 = t42 & y9, z16 = t45 & y14, z17 = t41 & y8;
    // Linear, back, with the affine map.
    u32 t46 = z15 ^ z16, t47 = z10 ^ z11, t48 = z5 ^ z13, t49 = z9 ^ z10, t50 = z2 ^ z12;
    u32 t51 = z2 ^ z5, t52 = z7 ^ z8, t53 = z0 ^ z3, t54 = z6 ^ z7, t55 = z16 ^ z17;
    u32 t56 = z12 ^ t48, t57 = t50 ^ t53, t58 = z4 ^ t46, t59 = z3 ^ t54, t60 = t46 ^ t57;
    u32 t61 = z14 ^ t57, t62 = t52 ^ t58, t63 = t49 ^ t58, t64 = z4 ^ t59, t65 = t61 ^ t62;
    u32 t66 = z1 ^ t63, t67 = t64 ^ t65, s3 = t53 ^ t66;
    q[7] = t59 ^ t63;
    q[6] = t64 ^ ~s3;
    q[5] = t55 ^ ~t67;
    q[4] = s3;
    q[3] = t51 ^ t66;
    q[2] = t47 ^ t65;
    q[1] = t56 ^ ~t62;
    q[0] = t48 ^ ~t60;
}

// The S-box on the four bytes of a word.
DEVICE u32 substitute_word(u32 x) {
    u32 q[8], y = 0;
UNROLL
    for (int b = 0; b < 8; b++) q[b] = (x >> b) & 0x01010101u;
    substitute(q);
UNROLL
    for (int b = 0; b < 8; b++) y |= (q[b] & 0x01010101u) << b;
    return y;
}

// Plane b of a block; the caller shifts the second block's by four.
DEVICE u32 plane_of(const Block &s, int b) {
    u32 p = 0;
UNROLL
    for (int c = 0; c < 4; c++) p |= ((s.w[c] >> b) & 0x01010101u) << c;
    return p;
}

DEVICE u32 shift_rows(u32 x) {
    return (x & 0xff000000u) | ((x >> 1) & 0x00770000u) | ((x << 3) & 0x00880000u)
         | ((x >> 2) & 0x00003300u) | ((x << 2) & 0x0000cc00u) | ((x >> 3) & 0x00000011u)
         | ((x << 1) & 0x000000eeu);
}

DEVICE void mix_columns(u32 q[8]) {
    u32 t[8];
UNROLL
    for (int b = 0; b < 8; b++) t[b] = q[b] ^ ROTATE(q[b], 8);
UNROLL
    for (int b = 0; b < 8; b++) {
        u32 twice = b == 0 ? t[7] : b == 1 || b == 3 || b == 4 ? t[b - 1] ^ t[7] : t[b - 1];
        q[b] = twice ^ ROTATE(q[b], 8) ^ ROTATE(t[b], 16);
    }
}

// Encrypt two blocks in place. `keys` holds the 15 round keys as 8 planes each, for both blocks.
DEVICE void encrypt_two(const u32 *keys, Block *first, Block *second) {
    Planes s;
UNROLL
    for (int b = 0; b < 8; b++) s.q[b] = (plane_of(*first, b) | plane_of(*second, b) << 4) ^ keys[b];
NOT_UNROLLED
    for (int round = 1; round < 15; round++) {
        substitute(s.q);
UNROLL
        for (int b = 0; b < 8; b++) s.q[b] = shift_rows(s.q[b]);
        if (round < 14) mix_columns(s.q);
UNROLL
        for (int b = 0; b < 8; b++) s.q[b] ^= keys[8 * round + b];
    }
    *first = zero_block();
    *second = zero_block();
UNROLL
    for (int b = 0; b < 8; b++)
UNROLL
        for (int c = 0; c < 4; c++) {
            first->w[c] |= ((s.q[b] >> c) & 0x01010101u) << b;
            second->w[c] |= ((s.q[b] >> (c + 4)) & 0x01010101u) << b;
        }
}
