# For nbgrader, in the folder of a course: the students' notebooks are the source, as they are. Without the steps that
# clear solutions and outputs: they hold no solutions, and the outputs that they have are questions.
import os

os.environ.setdefault("LESSON_STEPS", "3")                 # a short run is enough for what the checks look at
os.environ.setdefault("LESSON_SEEDS", "1")

c = get_config()                                           # noqa: F821 (nbgrader's own)
c.GenerateAssignment.preprocessors = [f"nbgrader.preprocessors.{name}" for name in (
    "IncludeHeaderFooter", "LockCells", "CheckCellMetadata", "ComputeChecksums", "SaveCells")]
c.Execute.timeout = 300
