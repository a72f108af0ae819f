"""Write what is in each image as a CycloneDX document: `make sbom`.

Packages of Python are those of the image's lock, with the hashes that the build asks for;
Python itself, what is beside it and the packages of Debian are asked of the image, where an
engine has it. The same image and lock give
the same document.
"""

import argparse
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SERVICES = ("auth", "catalog", "realtime", "web", "worker")
IMAGES = (*SERVICES, "gateway")
OS_PACKAGES = "flagon:os-packages"
"""The property that says where the packages of the system are from, or why there are none."""
_PYTHON = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.13.5",
    "python_version": "3.13",
    "sys_platform": "linux",
}
"""What markers of the lock are asked about: the Python of the images."""
_PACKAGES = """
import importlib.metadata, json, platform, re
found = {
    (re.sub("[-_.]+", "-", one.name).lower(), one.version)
    for one in importlib.metadata.distributions()
}
print(json.dumps({"python": platform.python_version(), "packages": sorted(found)}))
"""
"""What a Python is asked: packages may be beside it that no lock names, as pip is."""
_BASE_PYTHON = "/usr/local/bin/python"
_ASKED = "${Package} ${Version} ${Architecture}\\n"


def locked(service: str) -> Iterator[Component]:
    """Yield what the lock of a service names, with its hashes.

    What another Python or system would need is there too, as excluded: it is in the lock.
    """
    text = (ROOT / "deploy" / "locks" / f"{service}.lock").read_text()
    for line in text.replace("\\\n", "").splitlines():
        wanted, *hashes = line.split(" --hash=sha256:")
        requirement = Requirement(wanted.strip())
        [version] = requirement.specifier
        marker = requirement.marker
        yield _component(
            requirement.name,
            version.version,
            PackageURL("pypi", name=requirement.name, version=version.version),
            hashes=[
                HashType(alg=HashAlgorithm.SHA_256, content=one.strip())
                for one in hashes
            ],
            scope=ComponentScope.REQUIRED
            if marker is None or marker.evaluate(_PYTHON)
            else ComponentScope.EXCLUDED,
        )


def own(service: str) -> Iterator[Component]:
    """Yield the packages of the platform itself."""
    for folder in (ROOT / "libs" / "chassis", ROOT / "services" / service):
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        name, version = project["name"], project["version"]
        yield _component(name, version, PackageURL("pypi", None, name, version))


def beside(image: str, locked: set[str]) -> Iterator[Component]:
    """Yield Python itself and the packages that an image has besides those of its lock."""
    said = json.loads(_inside(image, "python", "-c", _PACKAGES))
    # The service's own Python does not look into that of the base.
    base = json.loads(_inside(image, _BASE_PYTHON, "-c", _PACKAGES))
    said["packages"] += [one for one in base["packages"] if one not in said["packages"]]
    version = said["python"]
    cpe = f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*"
    yield _component(
        "cpython", version, PackageURL("generic", None, "cpython", version), cpe=cpe
    )
    for name, version in said["packages"]:
        component = _component(name, version, PackageURL("pypi", None, name, version))
        if str(component.purl) not in locked:
            yield component


def installed(image: str) -> Iterator[Component]:
    """Yield the packages of the system in an image."""
    release = _inside(image, "cat", "/etc/os-release")
    said = dict(re.findall(r'^(\w+)="?([^"\n]*)', release, re.MULTILINE))
    distribution = f"{said['ID']}-{said['VERSION_ID']}"
    for line in _inside(image, "dpkg-query", "-W", "-f", _ASKED).splitlines():
        name, version, architecture = line.split()
        more = {"arch": architecture, "distro": distribution}
        yield _component(
            name, version, PackageURL("deb", "debian", name, version, more)
        )


def _inside(image: str, program: str, *arguments: str) -> str:
    return subprocess.run(
        [
            *("docker", "run", "--rm", "--network", "none", "--entrypoint", program),
            *(image, *arguments),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def there(image: str) -> bool:
    """Say whether an engine answers and has an image."""
    if not shutil.which("docker"):
        return False
    asked = ["docker", "image", "inspect", image]
    return subprocess.run(asked, check=False, capture_output=True).returncode == 0


def document(name: str, image: str | None, at: datetime) -> str:
    """Return the document of an image.

    :param name: a service, or `gateway`.
    :param image: what the engine calls it; None: Debian's packages are left out.
    :param at: when what is in it was decided: the commit's time.
    :raises ValueError: it is not what CycloneDX says that it must be.
    """
    parts = [
        *(locked(name) if name in SERVICES else ()),
        *(own(name) if name in SERVICES else ()),
        *(installed(image) if image else ()),
    ]
    if image and name in SERVICES:
        parts += beside(image, {str(one.purl) for one in parts})
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    whole = Component(
        name=f"flagon-{name}",
        type=ComponentType.CONTAINER,
        bom_ref=f"flagon-{name}",
        version=project["version"],
    )
    bom = Bom(components=parts)
    bom.metadata.component = whole
    bom.metadata.timestamp = at
    bom.metadata.properties.add(
        Property(name=OS_PACKAGES, value=image or "no engine has the image")
    )
    bom.register_dependency(whole, parts)
    names = sorted(
        f"{one.purl} {[each.content for each in one.hashes]}" for one in parts
    )
    bom.serial_number = uuid5(NAMESPACE_OID, "\n".join([name, *names]))
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong is not None:
        raise ValueError(f"{name}: {wrong}")
    return text


def _component(
    name: str,
    version: str,
    purl: PackageURL,
    *,
    hashes: list[HashType] | None = None,
    scope: ComponentScope = ComponentScope.REQUIRED,
    cpe: str | None = None,
) -> Component:
    return Component(
        name=name,
        version=version,
        purl=purl,
        bom_ref=str(purl),
        hashes=hashes,
        scope=scope,
        cpe=cpe,
    )


def main() -> None:
    """Write the documents that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=IMAGES, action="append")
    parser.add_argument("--image", default="flagon-{}:local", help="{}: its name")
    parser.add_argument("--epoch", type=int, default=0, help="seconds since 1970")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name in asked.only or IMAGES:
        image = asked.image.format(name)
        known = image if there(image) else None
        if known is None:
            print(f"sbom: {name}: no engine has {image}: without Debian's packages")
            if name == "gateway":
                continue
        text = document(name, known, datetime.fromtimestamp(asked.epoch, UTC))
        (asked.folder / f"{name}.json").write_text(text)
        print(f"sbom: {name}: {len(json.loads(text)['components'])} packages")


if __name__ == "__main__":
    main()
