"""The paper's theorems and equations as tests, each on functions whose derivatives are known."""
