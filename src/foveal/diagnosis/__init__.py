"""Whether and where a policy looks: heat of tokens, kinds of errors, and the gate before training."""
