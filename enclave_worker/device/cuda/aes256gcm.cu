// FLOE segments (c2sp.org/FLOE: AES-256-GCM, SP 800-38D) sealed and opened on a GPU, many at once,
// each split into pieces that thread blocks take.
//
//     segment   length field(4) | iv(12) | ciphertext | tag(16)      AAD: position(8) | final(1)
//
//   gcm_setup    one block per key       key schedule, powers of H, tables of H^THREADS; wipes key
//   gcm_body     one block per piece     keystream and a part of GHASH over whole AES blocks
//   gcm_finish   one thread per segment  ragged end, AAD, lengths, joins the parts: tag, or status
//
// GHASH is a polynomial in H whose coefficients are the blocks. The threads of a piece own blocks
// t, t + THREADS, ..., and each evaluates its own by Horner with the constant H^THREADS; a piece is
// aligned at its end, so missing blocks are leading zeros and no thread needs a power of its own
// inside the loop. Afterwards thread t multiplies by H^(THREADS - t) and the threads' sums add up.
//
// A lookup whose bank depends on secret bytes would show in time. Here it does not: the AES table
// exists once per bank (lane l reads column l), the table of H^THREADS once per group of four banks
// (16-byte loads go in quarters of a warp, each lane to its own group). Everything else is
// arithmetic. docs/adr/0015-tables-in-shared-memory-only.md
//
// Nothing secret outlives a kernel: shared memory is zeroed before a block ends, the key after its
// schedule; contexts and parts of MACs are the caller's to wipe. No secret is a kernel argument,
// since the constant bank of arguments cannot be wiped.
#ifndef THREADS
#define THREADS 512
#endif
#ifndef TABLES
#define TABLES 1          // 1: one AES table, rotated by permutes; 4: all four
#endif
#ifndef BLOCKS_PER_SM
#define BLOCKS_PER_SM 1
#endif

// Modes, or-ed.
#define SEAL 1u           // else open
#define CIPHER 2u         // write the other text
#define MAC 4u            // hash the ciphertext; write the tag or the status

// One FLOE segment. Offsets are bytes and multiples of 16.
struct Segment {
    u64 sealed;           // of the length field, in the buffer of sealed bytes
    u64 plain;            // in the buffer of plaintext
    u64 position;         // in its message
    u32 length;           // of the plaintext
    u32 key;              // index of its context
    u32 final;            // 1 for the last of its message
    u32 iv[3];            // when sealing; an opened segment brings its own
};                        // 48 bytes

// The context of a key, in words.
#define ROUND_KEYS 0                           // 60 words
#define PLANE_KEYS 60                          // 15 times 8 planes
#define AES_TABLE 180                          // 256 words, the same for every key
#define PIECE_POWER 436                        // H^(blocks of a full piece)
#define HASH_TABLE 440                         // 32 nibbles * 16 values * 4 words: value * H^THREADS
#define POWERS (HASH_TABLE + 2048)             // H^k for k from 0 to THREADS
#define CONTEXT_WORDS (POWERS + 4 * (THREADS + 1))

// Shared memory of gcm_body, in words: AES tables, eight copies of the hash table, round keys, sums.
#define COPIES 8
#define TABLE_WORDS (8192 * TABLES)
#define HASH_WORDS (2048 * COPIES)
#define BODY_WORDS (TABLE_WORDS + HASH_WORDS + 64 + 4 * 32)
#define SETUP_WORDS 64
#define SETUP_THREADS 256
#define FINISH_THREADS 64

// -- keys -----------------------------------------------------------------------------------------

DEVICE u32 times_x(u32 b) { return ((b << 1) ^ ((b >> 7) * 0x11bu)) & 0xffu; }

// FIPS 197 §5.2 for 256 bits.
DEVICE void expand_key(const u32 *key, u32 *round_keys) {
    u32 constant = 1;
    for (int i = 0; i < 8; i++) round_keys[i] = swap_bytes(key[i]);
NOT_UNROLLED
    for (int i = 8; i < 60; i++) {
        u32 x = round_keys[i - 1];
        if ((i & 3) == 0) {
            x = substitute_word((i & 7) == 0 ? ROTATE(x, 8) : x);
            if ((i & 7) == 0) {
                x ^= constant << 24;
                constant = times_x(constant);
            }
        }
        round_keys[i] = round_keys[i - 8] ^ x;
    }
}

// Launch: one block of SETUP_THREADS threads per key. `keys` is 8 words each, as bytes lie in memory.
KERNEL void BOUNDS(SETUP_THREADS, 1) gcm_setup(u32 *keys, u32 *contexts, u32 log_rows) {
    SHARED(round_keys);
    const u32 t = threadIdx.x;
    u32 *key = keys + 8 * blockIdx.x, *context = contexts + (u64)CONTEXT_WORDS * blockIdx.x;
    u32 *powers = context + POWERS;
    for (u32 v = t; v < 256; v += SETUP_THREADS) {
        u32 s = substitute_word(v) & 255u, twice = times_x(s);
        context[AES_TABLE + v] = (twice << 24) | (s << 16) | (s << 8) | (twice ^ s);
    }
    if (t == 0) {
        expand_key(key, round_keys);
        for (int i = 0; i < 8; i++) key[i] = 0;
    }
    SYNC();
    for (u32 v = t; v < 60; v += SETUP_THREADS) context[ROUND_KEYS + v] = round_keys[v];
    for (u32 v = t; v < 120; v += SETUP_THREADS) {
        u32 p = plane_of(load_block(round_keys + 4 * (v >> 3)), v & 7);
        context[PLANE_KEYS + v] = p | p << 4;
    }
    SYNC();
    for (u32 v = t; v < 60; v += SETUP_THREADS) round_keys[v] = 0;
    if (t == 0) {
        Block one = zero_block(), h = zero_block(), unused = zero_block();
        one.w[0] = 0x80000000u;
        store_block(powers, one);
        encrypt_two(context + PLANE_KEYS, &h, &unused);
        store_block(powers + 4, h);
    }
    SYNC();
    // Powers by doubling: from 1..m to m+1..2m.
    for (u32 m = 1; m < THREADS; m <<= 1) {
        Block top = load_block(powers + 4 * m);
        for (u32 j = 1 + t; j <= m && m + j <= THREADS; j += SETUP_THREADS)
            store_block(powers + 4 * (m + j), multiply(load_block(powers + 4 * j), top));
        SYNC();
    }
    Block step = load_block(powers + 4 * THREADS);
    for (u32 e = t; e < 512; e += SETUP_THREADS) {
        Block x = zero_block();
UNROLL
        for (u32 i = 0; i < 4; i++)
            x.w[i] = (e >> 7) == i ? (e & 15u) << (28 - 4 * ((e >> 4) & 7u)) : 0;
        store_block(context + HASH_TABLE + 4 * e, multiply(x, step));
    }
    if (t == 0) {
        for (u32 i = 0; i < log_rows; i++) step = multiply(step, step);
        store_block(context + PIECE_POWER, step);
    }
}

// -- the bulk -------------------------------------------------------------------------------------

// Row v, column of this lane. Written as a row of 32 words, so that a lookup compiles to one byte
// extraction, one multiply-add and one load.
#define LOOKUP(n, v) (((const u32(*)[32])aes)[(v)][(n) * 8192])
#define TABLE0(v) LOOKUP(0, v)
#if TABLES == 4
#define TABLE1(v) LOOKUP(1, v)
#define TABLE2(v) LOOKUP(2, v)
#define TABLE3(v) LOOKUP(3, v)
#else
#define TABLE1(v) PERMUTE(LOOKUP(0, v), 0u, 0x0321u)
#define TABLE2(v) PERMUTE(LOOKUP(0, v), 0u, 0x1032u)
#define TABLE3(v) PERMUTE(LOOKUP(0, v), 0u, 0x2103u)
#endif
#define BYTE3(x) PERMUTE((x), 0u, 0x4443u)
#define BYTE2(x) PERMUTE((x), 0u, 0x4442u)
#define BYTE1(x) PERMUTE((x), 0u, 0x4441u)
#define BYTE0(x) PERMUTE((x), 0u, 0x4440u)
#define COLUMN(a, b, c, d, k) \
    (TABLE0(BYTE3(a)) ^ TABLE1(BYTE2(b)) ^ TABLE2(BYTE1(c)) ^ TABLE3(BYTE0(d)) ^ rk[k])
#define ROUND(r, a0, a1, a2, a3, z0, z1, z2, z3) \
    z0 = COLUMN(a0, a1, a2, a3, 4 * (r));         \
    z1 = COLUMN(a1, a2, a3, a0, 4 * (r) + 1);     \
    z2 = COLUMN(a2, a3, a0, a1, 4 * (r) + 2);     \
    z3 = COLUMN(a3, a0, a1, a2, 4 * (r) + 3);
// In the last round there is no MixColumns; the S-box itself is in bytes 1 and 2 of the table.
#define LAST(a, b, c, d, k)                                                                 \
    (PERMUTE(PERMUTE(LOOKUP(0, BYTE3(a)), LOOKUP(0, BYTE2(b)), 0x1500u),                    \
             PERMUTE(LOOKUP(0, BYTE1(c)), LOOKUP(0, BYTE0(d)), 0x0015u), 0x3254u) ^ rk[k])
// One nibble of the running hash: value times H^THREADS, from this lane's copy.
#define NIBBLE(Y, word, i)                                                                       \
    {                                                                                            \
        u32 v = ((Y) >> (28 - 4 * (i))) & 15u;                                                   \
        uint4 e = *(const uint4 *)((const u8 *)hash + v * (16u * COPIES)                         \
                                   + ((word) * 128u + (i) * 16u) * (16u * COPIES));              \
        z0 ^= e.x;                                                                               \
        z1 ^= e.y;                                                                               \
        z2 ^= e.z;                                                                               \
        z3 ^= e.w;                                                                               \
    }
#define NIBBLES(Y, word)                                                        \
    NIBBLE(Y, word, 0) NIBBLE(Y, word, 1) NIBBLE(Y, word, 2) NIBBLE(Y, word, 3) \
    NIBBLE(Y, word, 4) NIBBLE(Y, word, 5) NIBBLE(Y, word, 6) NIBBLE(Y, word, 7)

DEVICE u32 iv_word(const struct Segment *s, const u8 *sealed, u32 i, u32 mode) {
    return mode & SEAL ? s->iv[i] : ((const u32 *)(sealed + s->sealed))[1 + i];
}

// Launch: `pieces` blocks of THREADS threads per segment, BODY_WORDS of shared memory.
KERNEL void BOUNDS(THREADS, BLOCKS_PER_SM)
gcm_body(const u32 *contexts, const struct Segment *segments, u8 *sealed, u8 *plain, u32 *parts,
         u32 pieces, u32 log_rows, u32 mode) {
    SHARED(shared);
    u32 *aes_tables = shared, *hash_tables = shared + TABLE_WORDS, *rk = hash_tables + HASH_WORDS;
    u32 *sums = rk + 64;
    const u32 t = threadIdx.x, lane = t & 31u, index = blockIdx.x / pieces;
    const struct Segment *s = segments + index;
    const u32 *context = contexts + (u64)CONTEXT_WORDS * s->key;
    const u64 start = ((u64)16 * THREADS << log_rows) * (blockIdx.x - index * pieces);
    if (start >= s->length) return;              // a shorter segment, or one of no bytes
    const u32 first = (u32)(start >> 4), all = s->length >> 4, most = (u32)THREADS << log_rows;
    const u32 blocks = all - first < most ? all - first : most;

    for (u32 j = t; j < 60; j += THREADS) rk[j] = context[ROUND_KEYS + j];
    for (u32 j = t; j < 8192; j += THREADS) {
        u32 x = context[AES_TABLE + (j >> 5)];
        aes_tables[j] = x;
#if TABLES == 4
        aes_tables[8192 + j] = PERMUTE(x, 0u, 0x0321u);
        aes_tables[16384 + j] = PERMUTE(x, 0u, 0x1032u);
        aes_tables[24576 + j] = PERMUTE(x, 0u, 0x2103u);
#endif
    }
    for (u32 j = t; mode & MAC && j < 512 * COPIES; j += THREADS)
        ((uint4 *)hash_tables)[j] = ((const uint4 *)(context + HASH_TABLE))[j / COPIES];
    SYNC();

    const u32 *aes = aes_tables + lane;
    const uint4 *hash = (const uint4 *)hash_tables + (lane & (COPIES - 1));
    // Only the last word of the counter block changes: 12 of the first round's lookups are constant.
    u32 c0, c1, c2, c3;
    {
        u32 n0 = swap_bytes(iv_word(s, sealed, 0, mode)) ^ rk[0];
        u32 n1 = swap_bytes(iv_word(s, sealed, 1, mode)) ^ rk[1];
        u32 n2 = swap_bytes(iv_word(s, sealed, 2, mode)) ^ rk[2];
        c0 = TABLE0(BYTE3(n0)) ^ TABLE1(BYTE2(n1)) ^ TABLE2(BYTE1(n2)) ^ rk[4];
        c1 = TABLE0(BYTE3(n1)) ^ TABLE1(BYTE2(n2)) ^ TABLE3(BYTE0(n0)) ^ rk[5];
        c2 = TABLE0(BYTE3(n2)) ^ TABLE2(BYTE1(n0)) ^ TABLE3(BYTE0(n1)) ^ rk[6];
        c3 = TABLE1(BYTE2(n0)) ^ TABLE2(BYTE1(n1)) ^ TABLE3(BYTE0(n2)) ^ rk[7];
    }
    u8 *outside = sealed + s->sealed + 16 + start, *inside = plain + s->plain + start;
    const uint4 *source = (const uint4 *)(mode & SEAL ? inside : outside);
    uint4 *target = (uint4 *)(mode & SEAL ? outside : inside);
    const u32 rows = (blocks + THREADS - 1) / THREADS, absent = rows * THREADS - blocks;
    u32 y0 = 0, y1 = 0, y2 = 0, y3 = 0;
    // The first row may lack blocks at its start; there the hash stays zero.
    u32 b = t < absent ? THREADS + t - absent : t - absent;
NOT_UNROLLED
    for (u32 counter = 2u + first + b; b < blocks; b += THREADS, counter += THREADS) {
        uint4 in = source[b], out = in;
        if (mode & CIPHER) {
            u32 s0, s1, s2, s3, t0, t1, t2, t3;
            t3 = counter ^ rk[3];
            s0 = c0 ^ TABLE3(BYTE0(t3));
            s1 = c1 ^ TABLE2(BYTE1(t3));
            s2 = c2 ^ TABLE1(BYTE2(t3));
            s3 = c3 ^ TABLE0(BYTE3(t3));
UNROLL
            for (int r = 2; r < 14; r += 2) {
                ROUND(r, s0, s1, s2, s3, t0, t1, t2, t3)
                ROUND(r + 1, t0, t1, t2, t3, s0, s1, s2, s3)
            }
            t0 = LAST(s0, s1, s2, s3, 56);
            t1 = LAST(s1, s2, s3, s0, 57);
            t2 = LAST(s2, s3, s0, s1, 58);
            t3 = LAST(s3, s0, s1, s2, 59);
            out.x = in.x ^ swap_bytes(t0);
            out.y = in.y ^ swap_bytes(t1);
            out.z = in.z ^ swap_bytes(t2);
            out.w = in.w ^ swap_bytes(t3);
            target[b] = out;
        }
        if (mode & MAC) {
            u32 z0 = 0, z1 = 0, z2 = 0, z3 = 0;
            if (b >= THREADS) { NIBBLES(y0, 0) NIBBLES(y1, 1) NIBBLES(y2, 2) NIBBLES(y3, 3) }
            uint4 text = mode & SEAL ? out : in;
            y0 = z0 ^ swap_bytes(text.x);
            y1 = z1 ^ swap_bytes(text.y);
            y2 = z2 ^ swap_bytes(text.z);
            y3 = z3 ^ swap_bytes(text.w);
        }
    }
    SYNC();                                      // the tables are not needed any more
    for (u32 j = t; j < HASH_WORDS / 4; j += THREADS) {
        uint4 nothing;
        nothing.x = nothing.y = nothing.z = nothing.w = 0;
        ((uint4 *)hash_tables)[j] = nothing;
    }
    for (u32 j = t; j < 64; j += THREADS) rk[j] = 0;
    if (!(mode & MAC)) return;

    Block y;
    y.w[0] = y0;
    y.w[1] = y1;
    y.w[2] = y2;
    y.w[3] = y3;
    // Looked up again: kept over the loop, the address would cost two registers of 64.
    context = contexts + (u64)CONTEXT_WORDS * segments[blockIdx.x / pieces].key;
    y = multiply(y, load_block(context + POWERS + 4 * (THREADS - t)));
UNROLL
    for (int m = 16; m; m >>= 1) {
UNROLL
        for (int i = 0; i < 4; i++) y.w[i] ^= SHUFFLE_XOR(y.w[i], m);
    }
    if (lane == 0) store_block(sums + 4 * (t >> 5), y);
    SYNC();
    if (t < 4) {
        u32 x = 0;
        for (u32 w = 0; w < THREADS / 32; w++) {
            x ^= sums[4 * w + t];
            sums[4 * w + t] = 0;
        }
        parts[(u64)blockIdx.x * 4 + t] = x;
    }
}

// -- the end of each segment ----------------------------------------------------------------------

// The hash over AAD and all whole blocks: what the pieces computed, joined.
DEVICE Block join_pieces(const u32 *context, const struct Segment *s, const u32 *parts, u32 log_rows) {
    const u32 *powers = context + POWERS;
    const u32 all = s->length >> 4, most = (u32)THREADS << log_rows, full = all / most;
    const Block step = load_block(context + PIECE_POWER);
    Block y;
    y.w[0] = (u32)(s->position >> 32);
    y.w[1] = (u32)s->position;
    y.w[2] = s->final << 24;
    y.w[3] = 0;
    y = multiply(y, load_block(powers + 4));
NOT_UNROLLED
    for (u32 p = 0; p < full; p++) y = add(multiply(y, step), load_block(parts + 4 * p));
    const u32 rest = all - full * most;
    if (rest) {
        u32 e = rest / THREADS;
        Block power = load_block(powers + 4 * THREADS);
        y = multiply(y, load_block(powers + 4 * (rest - e * THREADS)));
NOT_UNROLLED
        while (e) {
            if (e & 1) y = multiply(y, power);
            e >>= 1;
            if (e) power = multiply(power, power);
        }
        y = add(y, load_block(parts + 4 * full));
    }
    return y;
}

DEVICE u32 byte_of(const Block &b, u32 i) {
    u32 w = i < 8 ? (i < 4 ? b.w[0] : b.w[1]) : (i < 12 ? b.w[2] : b.w[3]);
    return (w >> (24 - 8 * (i & 3))) & 255u;
}

// Launch: FINISH_THREADS threads a block, at least one thread per segment.
KERNEL void BOUNDS(FINISH_THREADS, 1)
gcm_finish(const u32 *contexts, const struct Segment *segments, u8 *sealed, u8 *plain,
           const u32 *parts, u32 *statuses, u32 count, u32 pieces, u32 log_rows, u32 mode) {
    const u32 index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    const struct Segment *s = segments + index;
    const u32 *context = contexts + (u64)CONTEXT_WORDS * s->key;
    const Block h = load_block(context + POWERS + 4);
    u8 *head = sealed + s->sealed;
    const u32 tail = s->length & 15u, whole = s->length - tail;
    Block mask, stream;
    for (u32 i = 0; i < 3; i++)
        mask.w[i] = stream.w[i] = swap_bytes(iv_word(s, sealed, i, mode));
    mask.w[3] = 1;
    stream.w[3] = 2u + (s->length >> 4);
    encrypt_two(context + PLANE_KEYS, &mask, &stream);

    Block y = zero_block();
    if (mode & MAC) y = join_pieces(context, s, parts + (u64)index * pieces * 4, log_rows);
    if (tail) {
        u8 *outside = head + 16 + whole, *inside = plain + s->plain + whole;
        Block text = zero_block();
NOT_UNROLLED
        for (u32 i = 0; i < tail; i++) {
            u32 in = mode & SEAL ? inside[i] : outside[i];
            u32 out = in ^ byte_of(stream, i), hashed = mode & SEAL ? out : in;
            if (mode & CIPHER) *(mode & SEAL ? outside + i : inside + i) = (u8)out;
            u32 at = hashed << (24 - 8 * (i & 3));
UNROLL
            for (u32 w = 0; w < 4; w++) text.w[w] ^= (i >> 2) == w ? at : 0;
        }
        y = multiply(add(y, text), h);
    }
    if (!(mode & MAC)) {
        statuses[index] = 0;                     // done; it was verified by a launch before
        return;
    }
    y.w[1] ^= 72;                                // bits of AAD
    y.w[2] ^= s->length >> 29;
    y.w[3] ^= s->length << 3;
    y = add(multiply(y, h), mask);
    const u32 field = swap_bytes(s->final ? s->length + 32u : 0xffffffffu);
    u8 *tag = head + 16 + s->length;
    u32 differs = 0;
    if (mode & SEAL) {
        ((u32 *)head)[0] = field;
        for (u32 i = 0; i < 3; i++) ((u32 *)head)[1 + i] = s->iv[i];
    } else {
        differs = ((const u32 *)head)[0] ^ field;
    }
NOT_UNROLLED
    for (u32 i = 0; i < 16; i++) {
        if (mode & SEAL) tag[i] = (u8)byte_of(y, i);
        else differs |= tag[i] ^ byte_of(y, i);
    }
    statuses[index] = differs ? 1u : 0u;
}
