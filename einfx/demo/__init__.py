"""What ``python -m einfx demo`` and ``optimize`` show: real models, before and after."""
