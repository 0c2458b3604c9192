"""Files of others: recognised, decoded, read within bounds; good rows kept, broken ones named."""
