"""The software bill of materials of the image, in CycloneDX's format."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from uuid import NAMESPACE_URL, uuid5

from _licences import listed, page_modules
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

REFERENCE = re.compile(r"(?P<name>[^\s@]+):(?P<tag>[^\s:@/]+)(?:@sha256:(?P<digest>[0-9a-f]{64}))?")
"""The name of an image with its tag, and with its digest if it has one."""

Package = tuple[str, str]
"""Name, normalised, and version of a Python package."""
SystemPackage = tuple[str, str, str, str]
"""Distribution ("ubuntu"), name, version and architecture of a Debian package."""


class SbomError(Exception):
    """The document would not be valid, or would not describe the image."""


def sbom(
    version: str, revision: str, made: datetime, base: str, python: Iterable[Package], system: Iterable[SystemPackage]
) -> str:
    """The document, as JSON. The same arguments give the same text.

    revision: the commit. made: its time. base: the image that this one is built on, NAME:TAG@sha256:... python, system:
    the packages of Python and of its distribution. Raises SbomError if the schema forbids the result.
    """
    root = Component(
        type=ComponentType.CONTAINER,
        name="splatgate",
        version=version,
        licenses=licence("MIT"),
        bom_ref=f"splatgate:{version}",
    )
    parts = [base_image(base), *packages(python), *page(), *distribution(system)]
    bom = Bom(components=parts, serial_number=uuid5(NAMESPACE_URL, f"splatgate:{version}:{revision}"))
    bom.metadata.component, bom.metadata.timestamp = root, made
    bom.register_dependency(root, parts)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SbomError(f"the SBOM is not valid: {error}")
    return text + "\n"


def licence(text: str) -> list[object]:
    return [LicenseFactory().make_from_string(text)]


def packages(python: Iterable[Package]) -> list[Component]:
    """Without a licence for what no lock holds: pip, which comes with the environment."""
    licences = listed()
    return [
        Component(
            name=name,
            version=version,
            licenses=licence(licences[name, version]) if (name, version) in licences else [],
            purl=url,
            bom_ref=str(url),
        )
        for name, version in python
        for url in [PackageURL("pypi", None, name, version)]
    ]


def page() -> list[Component]:
    parts = []
    for name, version, licensed in page_modules():
        group, _, short = name.rpartition("/")
        url = PackageURL("npm", group or None, short, version)
        parts.append(
            Component(
                name=short,
                group=group or None,
                version=version,
                licenses=licence(licensed),
                purl=url,
                bom_ref=str(url),
            )
        )
    return parts


def base_image(base: str) -> Component:
    match = REFERENCE.fullmatch(base)
    if not match:
        raise SbomError(f"{base} is not the name of an image with a tag")
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=match["digest"])] if match["digest"] else []
    kind = ComponentType.CONTAINER
    return Component(type=kind, name=match["name"], version=match["tag"], hashes=hashes, bom_ref=base)


def distribution(system: Iterable[SystemPackage]) -> list[Component]:
    """Their licences are in /usr/share/doc of the image."""
    return [
        Component(name=name, version=version, purl=url, bom_ref=str(url))
        for distribution, name, version, architecture in system
        for url in [PackageURL("deb", distribution, name, version, {"arch": architecture})]
    ]
