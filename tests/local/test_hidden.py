"""What a process of local mode can import is what its image holds."""

import subprocess
import sys

from flagonctl import hidden

LOCK = "flask==3.1.3 \\\n    --hash=sha256:00\n    # via flagon\nPy_YAML.ext==1.0\n"
INSTALLED = {
    "flask": ["Flask"],
    "yaml": ["py-yaml-ext"],
    "rich": ["rich"],
    "google": ["tool", "Flask"],
    "_pytest": ["pytest"],
    "flagon_web": ["flagon-web"],
    "jsonschema-stubs": ["types-jsonschema"],
}


class TestModules:
    def test_names_what_no_distribution_of_the_lock_holds(self):
        assert hidden.modules(LOCK, INSTALLED) == ["rich"]

    def test_names_what_the_images_leave_out(self):
        left_out = "rich==1.0 ; sys_platform == 'never' \\\n    --hash=sha256:00\n"

        assert hidden.modules(LOCK + left_out, INSTALLED) == ["rich"]


class TestWrite:
    def test_hides_tools_from_a_process_and_says_why(self, tmp_path):
        (tmp_path / "web.lock").write_text(LOCK)
        folder = tmp_path / "hidden"

        hidden.write(tmp_path, ["web"], folder)

        done = subprocess.run(
            [sys.executable, "-c", "import pytest"],
            env={"PYTHONPATH": str(folder / "web")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "pytest is not in deploy/locks/web.lock" in done.stderr

    def test_shows_again_what_a_lock_has_got_since(self, tmp_path):
        (tmp_path / "web.lock").write_text(LOCK)
        folder = tmp_path / "hidden"
        hidden.write(tmp_path, ["web"], folder)
        (tmp_path / "web.lock").write_text("pytest==9.2.0\n")

        hidden.write(tmp_path, ["web"], folder)

        assert not (folder / "web" / "pytest.py").exists()

    def test_shows_what_images_hold_by_choice(self, tmp_path):
        (tmp_path / "web.lock").write_text(LOCK)
        folder = tmp_path / "hidden"

        hidden.write(tmp_path, ["web"], folder, more={"web": "pytest==9\n"})

        assert not (folder / "web" / "pytest.py").exists()
        assert (folder / "web" / "mypy.py").exists()
