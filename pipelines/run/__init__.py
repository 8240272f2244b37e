"""The run folder: the only thing that passes between steps.

    runs/<name>/
      config.yaml    the configuration of the run
      manifest.json  per step: its files with their sha256, what it was made from, its duration
      data/ workflow/ processed/ model/ reports/ index/    the output of one step each
      triton/        the exported versions, and which one is published
      logs/          TensorBoard, Triton

Only one process at a time writes a run. It holds the lock in `.twotower.lock` (see
`pipelines.lock`). Reading needs no lock.

A step writes into the folder `.twotower-staging`. When all files are complete and on the disk, the
new manifest is written there: from then on the step counts as done. Its folders are then moved into
place, the manifest last. If the process is killed between the renames, the next process that opens
the run completes them. A staged commit is valid if its manifest names the hash of the manifest that
it replaces. Any other staging folder is removed.

Before a step reads the files of another step, they are checked against the manifest. The settings
and the earlier steps that they were made from are checked as well. A changed file is never read.
"""

from __future__ import annotations

from twotower.pipelines.run.disk import write_atomically
from twotower.pipelines.run.layout import (
    CONFIG,
    MANIFEST,
    STAGING,
    STEPS,
    TRITON,
    VERSION,
    ranking_step,
)
from twotower.pipelines.run.provenance import git_commit, versions
from twotower.pipelines.run.run import Run, writes

__all__ = [
    "CONFIG",
    "MANIFEST",
    "STAGING",
    "STEPS",
    "TRITON",
    "VERSION",
    "Run",
    "git_commit",
    "ranking_step",
    "versions",
    "write_atomically",
    "writes",
]
