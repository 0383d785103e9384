"""What is made of the events before they are features: what a user says, what it means, how it is applied."""
