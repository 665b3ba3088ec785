"""Methods beside rivals: fixed suites of tasks, shipped runs, and the page of a comparison."""
