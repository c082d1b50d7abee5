"""Copies of a user's code, one for each meaning."""

import hashlib
from pathlib import Path

from mixsweep.core.store.code_copy import Code, CodeFile, code_path, keep_code, read_code, same_code


def code(text: str, name: str = "a.py", mode: int = 0o644) -> Code:
    return Code({name: CodeFile(text.encode(), mode)})


def test_of_python_the_meaning_counts_and_of_other_files_each_byte() -> None:
    assert code("x = 1\n").digest == code("x=1  # one\n").digest
    assert code("x = 1\n").digest != code("x = 2\n").digest
    assert code("x = 1\n", "a.txt").digest != code("x=1\n", "a.txt").digest
    assert code("x = 1\n", "a.py").digest != code("x = 1\n", "b.py").digest
    assert code("x = (\n", "a.py").digest != code("x = ( \n", "a.py").digest  # it does not parse
    assert code("x = 1\n").digest != code("x = 1\n", mode=0o755).digest


def test_a_copy_has_the_digest_of_what_was_copied_also_where_others_may_not_read_it(tmp_path: Path) -> None:
    secret = code("API_KEY = 'sk-0123456789abcdef0123456789abcdef'\n", mode=0o755)
    kept = keep_code(tmp_path, secret)
    assert (kept / "a.py").stat().st_mode & 0o777 == 0o700
    assert read_code({"a.py": kept / "a.py"}).digest == secret.digest == kept.name


def test_a_digest_of_an_older_version_is_compared_by_the_copy_that_it_names(tmp_path: Path) -> None:
    old = hashlib.sha256(b"of the bytes").hexdigest()[:16]
    copy = code_path(tmp_path, old)
    copy.mkdir(parents=True)
    (copy / "a.py").write_text("x = 1  # one\n")
    (copy / "a.py").chmod(0o644)
    now = code("x = 1\n").digest
    assert same_code(tmp_path, old) == same_code(tmp_path, now) == now
    assert same_code(tmp_path, "0123456789abcdef") == "0123456789abcdef"  # its copy is gone
    assert same_code(tmp_path, "") == ""
