"""Asking a stack's databases: as which role, with which program, in either mode."""

import os
import subprocess
from pathlib import Path
from typing import Any

from . import programs
from .problem import Problem
from .stack import Stack
from .vault import Vault


def command(
    stack: Stack, role: str, database: str, *words: str, typed: bool = False
) -> tuple[list[str], dict[str, str]]:
    """Return what runs `psql` as a role, and its environment.

    :param words: further arguments.
    :param typed: whether somebody types statements.
    """
    secret = f"{role}_postgres_password"
    words = ("--no-psqlrc", f"--username={role}", f"--dbname={database}", *words)
    if stack.mode == "docker":
        script = (
            f'PGPASSWORD=$(cat /run/secrets/{secret}) exec psql --host=127.0.0.1 "$@"'
        )
        return [
            *("docker", "compose", "--env-file", str(stack.state / "compose.env")),
            *("exec", *([] if typed else ["--no-TTY"]), "postgres"),
            *("sh", "-c", script, "psql", *words),
        ], dict(os.environ)
    program = str(programs.postgres_for(stack.state / "postgres").program("psql"))
    address = ["--host=127.0.0.1", f"--port={stack.port('postgres')}"]
    password = Vault(stack.secrets)[secret]
    return [program, *address, *words], {**os.environ, "PGPASSWORD": password}


def finished(
    argv: list[str],
    folder: Path,
    variables: dict[str, str] | None = None,
    **options: Any,  # noqa: ANN401 (as `subprocess` has them)
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it said, whether it failed or not."""
    return subprocess.run(
        argv,
        check=False,
        capture_output=True,
        text=True,
        env=variables,
        cwd=folder,
        **options,
    )


def ask(stack: Stack, role: str, database: str, statement: str) -> list[list[str]]:
    """Return the rows of one statement that only reads, as text.

    :raises Problem: Postgres does not answer, or refuses.
    """
    words = ["--no-align", "--tuples-only", "--field-separator=\t", "--quiet"]
    words += ["--set=on_error_stop=1"]
    words += ["--command=set default_transaction_read_only = on"]
    argv, variables = command(stack, role, database, *words, f"--command={statement}")
    done = finished(argv, stack.root, variables)
    if done.returncode != 0:
        message = f"{database} could not be asked: {done.stderr.strip()}"
        raise Problem(message, "make status")
    return [line.split("\t") for line in done.stdout.splitlines()]
