/** Files that the build gives a hashed name: what is imported is their address. */
declare module "*.json" {
  const url: string;
  export default url;
}
