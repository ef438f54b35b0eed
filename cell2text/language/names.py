"""Names of the tasks and of the fields that a question can be about.

Depends on nothing, so that the command line can check options before any library loads.
"""

TASKS = ("describe", "annotate", "ask", "pathways", "compare")
ASKABLE = ("cell_type", "tissue", "disease", "sex", "life_stage")
