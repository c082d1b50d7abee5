"""What a batch script of ours starts: `python -m mixsweep.sweep.backends.slurm.job_entry LAUNCH STORE SUBMISSION`.

It reads what to do from the submission's JSON files. Nothing of the store is executed.
"""

import os
import sys

from mixsweep.cluster.slurm.job_environment import hold_warnings

MODULE = "mixsweep.sweep.backends.slurm.job_entry"


def main(launch: str, store: str, submission_id: str) -> None:
    """Run this process's part of a submission: a task of its array, or a node of its Ray cluster."""
    # The imports take seconds, within which a warning signal would end the process.
    hold_warnings()
    from mixsweep.core.errors import UserError
    from mixsweep.sweep.backends.slurm.array_task import run_task
    from mixsweep.sweep.backends.slurm.ray_in_job import run_ray_in_job
    from mixsweep.sweep.backends.slurm.submissions import await_submission

    try:
        await_submission(store, submission_id)
        if launch == "ray":
            run_ray_in_job(store, submission_id)
        else:
            run_task(store, submission_id, int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")))
    except UserError as error:
        raise SystemExit(f"sweep: {error}") from error


if __name__ == "__main__":
    main(*sys.argv[1:])
