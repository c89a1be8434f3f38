"""Mounts a pod's volumes as the kubelet does: the same owners, modes and symbolic links, and the same swap when they change.

Source: kubernetes/kubernetes, pkg/volume/util/atomic_writer.go and pkg/volume/volume_linux.go (SetVolumeOwnership).
"""

from __future__ import annotations

import os
import shutil
import uuid
from typing import TYPE_CHECKING, Any, Final

from tests.deploy.container import Mount, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Files = dict[str, str]
_DEFAULT_MODE: Final = 0o644
# What fsGroup adds to files of a volume that is read-only (volume_linux.go).
_GROUP_READ: Final = 0o440


def settings_of(
    pod: dict[str, Any], container: dict[str, Any], content: Mapping[str, Files], scratch: Path
) -> tuple[Settings, dict[str, Path]]:
    """Return how to run a container of a pod, and the directories of its volumes.

    Args:
        pod: the pod's spec.
        container: one of its containers.
        content: the files of each volume that has some, by the volume's name.
        scratch: an empty directory for the volumes.
    """
    context = pod["securityContext"] | container["securityContext"]
    volumes = {volume["name"]: _mount_volume(volume, pod, content, scratch) for volume in pod["volumes"]}
    settings = Settings(
        arguments=container["args"],
        mounts=[
            Mount(volumes[mount["name"]], mount["mountPath"], mount.get("readOnly", False))
            for mount in container["volumeMounts"]
        ],
        user=(context["runAsUser"], context["runAsGroup"]),
        groups=[context["fsGroup"]] if "fsGroup" in context else [],
        environment={each["name"]: each.get("value", "from-a-secret") for each in container.get("env", [])},
        is_read_only=context.get("readOnlyRootFilesystem", False),
        drops_capabilities=context.get("capabilities", {}).get("drop") == ["ALL"],
        may_gain_privileges=context.get("allowPrivilegeEscalation", True),
        program=shutil.which(container["command"][0]) if "command" in container else None,
        capabilities=tuple(f"CAP_{name}" for name in context.get("capabilities", {}).get("add", [])),
    )
    return settings, volumes


def _mount_volume(volume: dict[str, Any], pod: dict[str, Any], content: Mapping[str, Files], scratch: Path) -> Path:
    directory = scratch / str(volume["name"])
    directory.mkdir()
    group = pod["securityContext"].get("fsGroup")
    if "emptyDir" in volume or "persistentVolumeClaim" in volume:
        if group is not None:
            os.chown(directory, 0, group)
        directory.chmod(0o2777)
        return directory
    kind = next(kind for kind in ("secret", "configMap", "projected", "csi") if kind in volume)
    mode = volume[kind].get("defaultMode", _DEFAULT_MODE)
    # The secrets-store CSI driver heeds no fsGroup, and its files belong to root.
    swap(directory, content[volume["name"]], mode, None if kind == "csi" else group)
    return directory


def swap(directory: Path, files: Files, mode: int, group: int | None) -> None:
    """Put files in the place of a volume's present ones, all at once."""
    fresh = directory / f"..{uuid.uuid4().hex}"
    fresh.mkdir()
    for name, text in files.items():
        file = fresh / name
        file.write_text(text)
        if group is not None:
            os.chown(file, 0, group)
        file.chmod(mode if group is None else mode | _GROUP_READ)
        visible = directory / name
        if not visible.is_symlink():
            visible.symlink_to(f"..data/{name}")
    link = directory / "..data_tmp"
    link.symlink_to(fresh.name)
    link.rename(directory / "..data")
