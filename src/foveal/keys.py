"""Keyed randomness: a generator is a function of what it is for, never of what was drawn before.

So pictures and tokens are the same in score and update, after a resume, and however work is batched or spread
over ranks.
"""

import hashlib

import numpy as np

Key = tuple[int | str, ...]
"""What the randomness is for, such as (run seed, step, problem id, image index, view)."""


def generator(*key: int | str) -> np.random.Generator:
    """A counter-based (Philox) generator that depends on `key` alone.

    >>> bool(generator(0, "a").random() == generator(0, "a").random())
    True
    >>> bool(generator(0, "a").random() == generator(0, "b").random())
    False
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
