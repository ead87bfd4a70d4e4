"""How clients prove who they are: one module for each kind, and the guard that asks them."""
