"""A job whose every secret can be recognised, and what must not be seen of it."""

from collections.abc import Mapping

import numpy as np
from attrs import define, field
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.client.client import Client
from attestation.client.jobs import Job
from attestation.programs.program import Program, Step
from tests.simulators.markers import Forms, Key, Marker, Word, all_forms


@define(kw_only=True)
class Planted:
    """Secrets in the tensor, the names and the parameters of a job, and who sent it."""

    tensor: Marker = field(factory=lambda: Marker.draw("tensor"))
    parameter: Marker = field(factory=lambda: Marker.draw("parameter"))
    step: Word = field(factory=lambda: Word.draw("step"))
    name: Word = field(factory=lambda: Word.draw("input"))
    key: Ed25519PrivateKey = field(factory=Ed25519PrivateKey.generate, repr=False)

    def submit(self, client: Client, nbytes: int, *, durable: bool) -> Job:
        name, step = self.name.text, self.step.text
        program = Program.of(
            inputs=[name],
            steps=[Step(id=step, kernel="nn.affine", inputs={"x": name})],
            outputs={"y": f"{step}.y"},
        )
        return client.submit(
            program,
            {name: self.tensor.array(nbytes)},
            parameters={step: {"scale": self.parameter.number(), "shift": 0.0}},
            durable=durable,
        )

    def fail(self, client: Client) -> Job:
        """A job that every worker accepts and whose kernel fails."""
        singular = np.zeros((4, 4))
        return client.submit("linalg.solve", {"a": singular, "b": np.ones((4, 1))})

    def assert_unseen(self, texts: Mapping[str, str]) -> None:
        """Nothing of the secrets is in any of `texts`, however it is written."""
        key = Key(name="signing key", data=self.key.private_bytes_raw())
        secrets: Forms = all_forms(self.tensor, self.parameter, self.step, self.name, key)
        for where, text in texts.items():
            for form, data in secrets.items():
                assert data not in text.encode(), f"{where} shows {form}"
            assert "nn.affine" not in text, f"{where} names a kernel"
            assert "float64" not in text, f"{where} names a type"
