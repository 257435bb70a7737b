"""Puts the language files (sandboxes/) into the wheel as rrk/_sandboxes; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithSandboxes(build_py):
    """build_py, and a copy of sandboxes/ where rrk.sandbox.languages.toolchains.folder() looks for it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # a checkout is used as it stands
            target = Path(self.build_lib) / "rrk" / "_sandboxes"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(Path(__file__).parent / "sandboxes", target)


setup(cmdclass={"build_py": WithSandboxes})
