"""What looks like a secret in text that others may read: a batch script, a patch, files shipped to a cluster.

A guess by names and by the forms of well-known tokens. It errs towards a secret where that costs little.
"""

import fnmatch
import re

# A value given to such a name, as a string in code or as a setting of a shell.
_NAME = r"[\w-]*(?:key|token|secret|passw(?:or)?d|credential|auth)[\w-]*"
_ASSIGNED = re.compile(
    rf"(?i:{_NAME}[\"']?\s*[:=]\s*[\"'][^\"'\s]{{8,}}[\"'])"
    r"|\b[A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSW(?:OR)?D|CREDENTIAL|AUTH)[A-Z0-9_]*=[^\s$\"']{8,}"
)
_KNOWN = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"
    r"|\bxox[abpr]-[A-Za-z0-9-]{10,}|\bsk-[A-Za-z0-9_-]{20,}|\bhf_[A-Za-z0-9]{30,}|://[^/\s:@]+:[^/\s:@]+@"
)

# A name like `token_path` says where a secret is, not what it is.
_PLACE_OF_ONE = re.compile(r"(?i)\b[\w-]*(?:path|file|dir|folder)[\"']?\s*[:=]")

_NAMED = re.compile(r"(?i)key|token|secret|passw|passphrase|credential|auth")

# Files that hold secrets by convention: settings of an environment, logins, private keys.
_FILES = (
    ".env", ".env.*", "*.env", ".netrc", "_netrc", ".pypirc", ".npmrc", ".git-credentials", ".pgpass", ".htpasswd",
    "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk", "id_rsa*", "id_dsa*", "id_ecdsa*",
    "id_ed25519*", "credentials", "credentials.*", "secrets", "secrets.*", "*.secret", "service-account*.json",
)  # fmt: skip


def looks_secret(line: str) -> bool:
    """Whether a line of text holds what looks like a secret."""
    return bool(_KNOWN.search(line) or _ASSIGNED.search(_PLACE_OF_ONE.sub("", line)))


def text_looks_secret(content: bytes) -> bool:
    """Whether a line of a text file looks like a secret; a binary file does not."""
    return b"\0" not in content and any(map(looks_secret, content.decode("utf-8", "replace").splitlines()))


def is_secret_variable(name: str, value: str) -> bool:
    """Whether an environment variable looks like a secret, by its name or by its value."""
    return bool(value) and bool(_NAMED.search(name) or looks_secret(value))


def is_secret_file(name: str) -> bool:
    """Whether a file of this name holds secrets by convention."""
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in _FILES)
