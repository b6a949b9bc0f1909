"""Running a plan: arguments filled in, the thread pool, tasks in step, forks."""
