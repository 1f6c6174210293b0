// Generated histories are the same in every run, and are not shrunk: a mutant is killed or not, and quickly.
import fc from 'fast-check'

fc.configureGlobal({ seed: 24, endOnFailure: true })
