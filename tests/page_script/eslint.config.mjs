// For the page's script. Unknown names are TypeScript's to find, which knows what a browser has.
import js from "@eslint/js";

export default [
  js.configs.recommended,
  {
    files: ["**/*.js"],
    languageOptions: { ecmaVersion: 2023, sourceType: "module" },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "no-undef": "off",
      "eqeqeq": "error",
      "no-var": "error",
      "prefer-const": "error",
      "prefer-template": "error",
      "no-shadow": "error",
      "no-implicit-coercion": "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-script-url": "error",
      "max-len": ["error", { code: 160 }],
      // What comes from elsewhere becomes text, never markup; the page's policy asks for the same (require-trusted-types-for).
      "no-restricted-properties": ["error",
        { property: "innerHTML" }, { property: "outerHTML" }, { property: "insertAdjacentHTML" }, { property: "write" }],
    },
  },
];
