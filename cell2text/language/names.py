"""Names of the tasks that a prompt can set.

Depends on nothing, so that the command line can check options before any library loads.
"""

TASKS = ("describe", "annotate", "ask", "pathways", "compare")
