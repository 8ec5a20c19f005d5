"""What a teacher of the lessons needs: the notebooks with their answers, the solutions, and what grades hand-ins."""
