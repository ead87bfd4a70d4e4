"""What the operator wrote: strict models of the gateway document, and loading it with every problem located."""
