import { SHELL_PAGES } from './pages.js'
import { followPages } from './shell-blocks.js'

followPages(SHELL_PAGES.begin)
