"""The published known answers are what this code makes today. A difference breaks the format."""

import json

from tests.sealing import make_vectors


def test_published_vectors_are_reproduced_byte_by_byte() -> None:
    published = make_vectors.PATH.read_text()
    assert make_vectors.render(make_vectors.build(json.loads(published))) == published
