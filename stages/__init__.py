"""The programs of the project. Each dies with the dvc or the launcher that has started it, from its first moment on."""

from oniris_core.common.process import die_with_launcher

die_with_launcher()
