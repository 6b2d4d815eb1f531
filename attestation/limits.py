"""Every limit on bytes from outside, each with its unit and its reason.

A parser that needs a bound takes it from here. Raising one is a decision about memory that a
stranger can make us spend, so each says what it bounds.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# -- encoding -------------------------------------------------------------------------------------

CBOR_DEPTH: Final = 8
"""Nesting levels. Our deepest message uses 6; a parser that recurses must stop somewhere."""

CBOR_ITEMS: Final = 65_536
"""Items in one document: bounds the objects one document can make us allocate."""

TEXT_BYTES: Final = 4 * KIB
"""Bytes of one text string: names, codes and sentences, never data."""

# -- names ----------------------------------------------------------------------------------------

NAME_CHARACTERS: Final = 64
"""Characters of a tensor, kernel, step or parameter name."""

# -- wire -----------------------------------------------------------------------------------------

FRAME_BYTES: Final = 17 * MIB
"""One ZeroMQ frame (ZMQ_MAXMSGSIZE): the largest segment, 16 MiB, and room for its framing."""

FRAMES_PER_MESSAGE: Final = 64
"""Frames of one multipart message after the routing id; larger jobs stream their segments."""

CONTROL_BYTES: Final = 1 * MIB
"""One control body (submit record, listing, announcement)."""

INLINE_BYTES: Final = 2 * MIB
"""Sealed bytes that travel inside the submit or result message instead of streamed: asking for
credit first costs a round trip, which below this is more than the bytes do."""

INLINE_SEGMENTS: Final = 32
"""Segments that travel inside one message; with the fixed frames it stays under the frame limit."""

JOB_ENVELOPE_BYTES: Final = 1 * MIB
"""Signed job header, its signature and the sealed program, together."""

# -- tensors --------------------------------------------------------------------------------------

TENSOR_RANK: Final = 16
"""Dimensions of a tensor; NumPy allows 64, no kernel of ours needs more than 5."""

TENSOR_BYTES: Final = 1 << 40
"""Bytes of one tensor, 1 TiB: far above any device, far below integer trouble."""

TENSORS_PER_JOB: Final = 256
"""Inputs, and separately outputs, of one job."""

SEGMENT_BYTES: Final = 1 * MIB
"""Plaintext bytes of a segment by default: fits the L2 cache, and a tag costs 0.0015 %."""

LARGE_SEGMENT_BYTES: Final = 2 * MIB
LARGE_TENSOR_BYTES: Final = 16 * MIB
"""From this size on a tensor's segments are larger: what a segment costs whatever its size, in
three processes, is then half as much (measured: a tenth of the processor time of 64 MiB)."""

SEGMENT_BYTES_MIN: Final = 64 * KIB
SEGMENT_BYTES_MAX: Final = 16 * MIB
"""Powers of two in between are allowed; a sender may not make a receiver hold larger ones."""

# -- programs -------------------------------------------------------------------------------------

PROGRAM_STEPS: Final = 256
"""Kernels in one program."""

ITEMS_PER_JOB: Final = 4096
"""Runs of one program that travel as one job: more would make the others wait for its turn."""

PROGRAM_BYTES: Final = 256 * KIB
"""A canonical program."""

CATALOGUE_BYTES: Final = 1 * MIB
"""A worker's whole kernel catalogue."""

EXPRESSION_CHARACTERS: Final = 2048
"""Text of one elementwise expression, the longest text that a parameter may be."""

EXPRESSION_NODES: Final = 256
"""Operations and operands of one expression, equal ones once: bounds what is compiled for it."""

EXPRESSION_DEPTH: Final = 32
"""Levels of nesting: its parser recurses, a dozen calls for each."""

EXPRESSION_CONSTANTS: Final = 64
"""Different constants of one expression: they are arguments of a CUDA kernel, which has 4 KiB."""

EXPRESSION_COST: Final = 2048
"""Additions that one element of an expression may cost: a job's time grows with its bytes only."""

# -- evidence and receipts ------------------------------------------------------------------------

EVIDENCE_BYTES: Final = 1 * MIB
"""One evidence bundle with its certificates; eight GPUs with their chains take about 200 KiB."""

CERTIFICATE_BYTES: Final = 16 * KIB
"""One DER certificate."""

CERTIFICATES: Final = 16
"""Certificates in one chain or bundle."""

CRL_BYTES: Final = 4 * MIB
"""One revocation list; Intel's largest in use has 130 KiB."""

COLLATERAL_ITEM_BYTES: Final = 4 * MIB
"""One item of collateral."""

COLLATERAL_ITEMS: Final = 1024
"""Items of one bundle: RIMs and OCSP answers of a few products, lists of every vendor."""

COLLATERAL_BYTES: Final = 32 * MIB
"""A whole bundle of collateral."""

KEYSET_BYTES: Final = 8 * KIB
"""A canonical key set: the hybrid KEM key is 1,216 bytes, an ML-DSA-65 key would be 1,952."""

MERKLE_PATH: Final = 64
"""Hashes in an inclusion proof: trees of up to 2^64 leaves (RFC 9162 section 2.1.3)."""

RECEIPT_BYTES: Final = 64 * KIB
"""A receipt with its path and signature."""

NONCE_BYTES: Final = 32
"""A client's Challenge."""

POLICY_BYTES: Final = 256 * KIB
"""A policy file."""

POLICY_ENTRIES: Final = 4096
"""Entries of one list in a policy."""

TPM_STRUCTURE_BYTES: Final = 2 * KIB
"""One marshalled TPM structure; the largest in use, an RSA-4096 public area, takes 560 bytes."""

TPM_PCRS: Final = 128
"""PCR values in one piece of Evidence: four banks of 32."""

INTEL_QUOTE_BYTES: Final = 64 * KIB
"""An Intel quote with its certificates: 5 KiB, or 8,000 bytes where a cloud pads it."""

INTEL_COLLATERAL_BYTES: Final = 1 * MIB
"""One item of Intel collateral: 20 KiB in use, and room for a revocation list of 130 KiB in hex."""

INTEL_TCB_LEVELS: Final = 1024
"""TCB levels of one platform; the longest list in use has 20."""

SNP_CERTIFICATE_TABLE_BYTES: Final = 64 * KIB
"""The certificate table of an extended report: a chain and a revocation list take 10 KiB."""

EVENT_LOG_BYTES: Final = 512 * KIB
"""The log of a measured boot; a Windows machine writes 100 KiB, Linux with GRUB 40."""

EVENT_LOG_EVENTS: Final = 8192
"""Events of one log: GRUB measures every command, which makes a few hundred."""

HCL_REPORT_BYTES: Final = 16 * KIB
"""An Azure paravisor's report; the NV index that it is read from has 2,600 bytes."""

NITRO_DOCUMENT_BYTES: Final = 32 * KIB
"""A Nitro attestation document; the NSM makes no more than 16 KiB."""

NITRO_FIELD_BYTES: Final = 1024
"""User data, nonce or public key in a Nitro document (AWS, attestation process, section 3)."""

SPDM_BYTES: Final = 16 * KIB
"""One SPDM request and response: NVML's buffer has 8 KiB, a GPU fills half of it."""

GPU_DEVICES: Final = 64
"""GPUs and switches of one machine; a board of eight GPUs has four switches."""

RIM_BYTES: Final = 256 * KIB
"""One reference integrity manifest; those in use have 20 to 30 KiB."""

RIM_MEASUREMENTS: Final = 256
"""Entries of one manifest: 64 in use, and an SPDM index has one byte."""

OCSP_BYTES: Final = 16 * KIB
"""One OCSP response with its responder's certificate, 1 KiB in use."""

TOKEN_BYTES: Final = 256 * KIB
"""An NRAS answer: one token of 2 KiB for each device and one over all."""

JWKS_BYTES: Final = 512 * KIB
"""A JSON Web Key Set; NVIDIA's has 32 keys with two certificates each, 120 KiB."""

CLOCK_SKEW_SECONDS: Final = 30
"""How far a worker's clock may run ahead of the clock that judges it."""

# -- sessions -------------------------------------------------------------------------------------

KEYSET_SECONDS: Final = 3600
"""Longest life of a key set: a stolen key is worth one hour."""

KEYSETS_PER_WORKER: Final = 1024
"""Live key sets of one worker, 12 KiB each. Clients who come one by one need one each, and with 64
a worker stood still after 64 of them in ten minutes (docs/worker.md, keys)."""

SESSIONS_PER_KEYSET: Final = 4096
"""Clients in one window."""

JOBS_PER_KEYSET: Final = 1 << 20
"""Entries of the replay cache; when it is full the key set ends and clients take a new one."""

CHALLENGES_PER_WINDOW: Final = 4096
"""Nonces that one hardware signature answers."""
