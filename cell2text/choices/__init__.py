"""Answer the multiple-choice questions of published benchmarks, and score the choices.

question file -> questions -> choices with probabilities -> accuracy per kind of question
"""
