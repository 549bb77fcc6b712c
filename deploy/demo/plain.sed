# Typographic quotes and dashes become their plain forms.
s/‘/'/g
s/’/'/g
s/“/"/g
s/”/"/g
s/—/ - /g
s/–/-/g
s/…/.../g
s/·//g
