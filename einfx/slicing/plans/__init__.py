"""What was found, as a plan: data that is printed, kept as text, run, derived.

==================  ========================================================================================
file                holds
==================  ========================================================================================
``contraction.py``  which contractions are cut into blocks, and their schedules remembered
``plan.py``         ``SlicedPlan``
``parts.py``        what plans are made from
``making.py``       making plans
``text.py``         plans as text
``printing.py``     plans for people
``jobs.py``         a plan as jobs that don't depend on one another, and how their results meet
==================  ========================================================================================
"""
