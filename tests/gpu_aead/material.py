"""Segments as the processor's FLOE makes them, to compare with."""

from unittest.mock import patch

from attestation.sealing.floe import FloeOpener, FloeSealer
from attestation.sealing.segments import Layout
from enclave_worker.device.segment_table import Table, tensor_rows

KEY = bytes(range(32))
AAD = b"the header of a tensor"


def layout(nbytes: int, segment_bytes: int) -> Layout:
    """Segments may be smaller here than tensors allow, so that tests are quick."""
    return Layout(nbytes, segment_bytes, max(1, -(-nbytes // segment_bytes)))


class Sealed:
    """One message, sealed on the processor."""

    def __init__(
        self, data: bytes, segment_bytes: int, *, key: bytes = KEY, rotation_mask: int = 20
    ) -> None:
        self.layout = layout(len(data), segment_bytes)
        self.data = data
        self.rotation_mask = rotation_mask
        length = segment_bytes + 32
        sealer = FloeSealer(key, AAD, segment_length=length, rotation_mask=rotation_mask)
        self.keys = FloeOpener(
            key, AAD, sealer.header, segment_length=length, rotation_mask=rotation_mask
        ).epoch_keys(self.layout.count)
        self.segments = []
        for index in range(self.layout.count):
            out = bytearray(self.layout.sealed_length(index))
            source = data[self.layout.plaintext(index)]
            sealer.seal_into(index, source, out, final=self.layout.is_final(index))
            self.segments.append(bytes(out))

    @property
    def wire(self) -> bytes:
        return b"".join(self.segments)

    @property
    def ivs(self) -> bytes:
        return b"".join(segment[4:16] for segment in self.segments)

    def rows(self, *, sealed_at: int = 0, plain_at: int = 0, first_key: int = 0) -> Table:
        return tensor_rows(
            self.layout,
            sealed_at=sealed_at,
            plain_at=plain_at,
            first_key=first_key,
            rotation_mask=self.rotation_mask,
        )


def drawing(ivs: bytes) -> object:
    """Have the device draw the IVs that the processor drew, for a `with` statement."""
    return patch("enclave_worker.device.gpu_aead.urandom", lambda size: ivs[:size])
