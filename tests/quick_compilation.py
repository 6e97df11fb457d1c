"""How XLA:CPU compiles in the tests: in a half to a quarter of the time, to code that runs slower.

Most programs of a test run once or twice. What users' numbers are, tests marked as_users and the demo's, `make
test-slow` compiles as users do: with an empty XLA_FLAGS.
"""

import jaxlib

FLAGS = "--xla_backend_optimization_level=0"
OFF = {"xla_backend_optimization_level": 3}  # compiler options: XLA's own defaults, where the last bit matters
if tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 11):  # a later XLA ends at a flag that it does not know
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
    OFF |= {"xla_cpu_use_fusion_emitters": True}
