"""The token that the ranks of a trial share, and the seal that it puts on a message.

Whoever reaches the port of rank 0 may write into its key-value store. A rank acts only on messages that a holder of
the token has sealed, each for one place in the order of messages.
"""

import hmac

# The environment variable that a place sets to the same secret text in all ranks of a trial, and nowhere else.
RANK_TOKEN = "MIXSWEEP_RANK_TOKEN"

_SEAL_BYTES = 32


def seal(token: str, key: str, message: bytes) -> bytes:
    """A message with the seal of the token for this key."""
    return _seal(token, key, message) + message


def unseal(token: str, key: str, sealed: bytes) -> bytes | None:
    """The message that `seal` was given with the same token and key; None for any other bytes."""
    message = sealed[_SEAL_BYTES:]
    return message if hmac.compare_digest(sealed[:_SEAL_BYTES], _seal(token, key, message)) else None


def _seal(token: str, key: str, message: bytes) -> bytes:
    made = hmac.new(token.encode(), key.encode() + b"\0", "sha256")
    made.update(message)
    return made.digest()
