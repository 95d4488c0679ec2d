"""Reading and writing files so that none of them can hang, flood or lead astray the program: below all other rooms."""
