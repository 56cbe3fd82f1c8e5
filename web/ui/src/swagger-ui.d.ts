/** The part of Swagger UI that the API page uses; the package has no types. */
declare module "swagger-ui-dist/swagger-ui-es-bundle.js" {
  interface SwaggerUi {
    preauthorizeApiKey(scheme: string, key: string): void;
  }
  export default function SwaggerUIBundle(options: Record<string, unknown>): SwaggerUi;
}
