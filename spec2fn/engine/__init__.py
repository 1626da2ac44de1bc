"""What runs steps: steps themselves, pipelines, parameters, the run and its forecast."""
