"""The figures that the README quotes, each as a command that anyone can run."""
